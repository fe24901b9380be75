"""Writes docs/settings.md from the help texts of the settings: python tests/training/settings_page.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from vpd.training.config import TrainConfig

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """# Settings of `vpd train`

Given by `-s key=value`, or in a YAML file by `--config FILE`; `--config own-segment`, `own-refer`, `own-depth` and the
published recipes ([reproduce.md](reproduce.md)) are shipped. What is marked needed and not given on the command line
comes from the recipe, or is chosen where none is named ([fine-tuning.md](fine-tuning.md)). The resolved settings are
written to `config.yaml` in the folder of the run and of every checkpoint, which is enough to repeat it.

| key | default | meaning |
|---|---|---|
"""


def page() -> str:
    """The page as it should stand."""
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows(TrainConfig))


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of every setting, those of a group after it."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        group = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        default = "**needed**" if field.is_required() else repr(field.get_default(call_default_factory=True))
        if group is None or not (field.is_required() or isinstance(field.default, BaseModel)):
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"`{prefix}{name}`", default, meaning
        if group is not None:
            yield from rows(group, f"{prefix}{name}.")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
