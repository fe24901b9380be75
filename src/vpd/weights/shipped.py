"""The small models that come with the package: `world`, text-to-image, and what was adapted from it to each task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from vpd.config import Task
from vpd.errors import UsageError

WORLD = "world"
"""Name of the text-to-image model, wherever a diffusion model is asked for."""
ADAPTED: dict[str, Task] = {
    "world-segment": "segment",
    "world-refer": "refer",
    "world-depth": "depth",
    "world-open": "segment",
}
"""Names of the adapted models, wherever a trained model is asked for, and their tasks; `world-open` takes any classes
of the world by words, which may overlap."""
FOLDER = Path(__file__).parent / "world"
HASHES = "sha256.json"
LICENCE = "Apache-2.0"
"""Of all shipped weights."""


@lru_cache(maxsize=1)
def shipped_diffusion(folder: Path = FOLDER) -> Path:
    """The folder of the text-to-image model, in diffusers layout without a tokenizer, which is CLIP's.

    Raises:
        UsageError: If a weight file is missing or not the one that was shipped.
    """
    adapted = set(map(_folder_of, ADAPTED))
    _verify(folder, lambda name: name.split("/")[0] not in adapted)
    return folder


@lru_cache(maxsize=len(ADAPTED))
def shipped_model(name: str, folder: Path = FOLDER) -> Path:
    """The folder of an adapted model, one of `ADAPTED`; raises as `shipped_diffusion`."""
    part = _folder_of(name)
    _verify(folder, lambda path: path.split("/")[0] == part)
    return folder / part


def _folder_of(name: str) -> str:
    """Where the weights of an adapted model are."""
    return name.removeprefix(f"{WORLD}-")


def _verify(folder: Path, is_wanted: Callable[[str], bool]) -> None:
    for name, expected in json.loads((folder / HASHES).read_text(encoding="utf-8")).items():
        if not is_wanted(name):
            continue
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != expected:
            raise UsageError(
                f"{path} of the shipped model is damaged: its SHA-256 is {found}, not {expected}. Install vpd again."
            )
