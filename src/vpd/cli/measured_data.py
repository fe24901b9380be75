"""Which part of which data a model is measured on, for the commands that measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpd.errors import UsageError


def measured_split(data: str, layout: str, split: str | None) -> str:
    """The part that is named, or the one that is held out.

    Raises:
        UsageError: If none is named, and none is held out.
    """
    from vpd.datasets import layouts

    wanted = split or layouts.held_out_split(data, layout)
    if wanted is None:
        raise UsageError(f"{data} has neither val nor test; name a part of it by --split.")
    return wanted


def measured_options(model: Any, layout: str, options: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """How the data are read: what was given, every sentence by itself unless told, and what may be."""
    from vpd.datasets import layouts
    from vpd.overrides import parse_overrides

    given, known = parse_overrides(options or []), layouts.option_names(layouts.find_layout(layout))
    if "text" in model.words and "per_sentence" in known:
        given = {"per_sentence": True, **given}  # of any split, as the benchmarks count
    return given, known
