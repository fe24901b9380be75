"""Metrics as people read them."""

from __future__ import annotations

import math
from typing import Any

from vpd.metrics.depth import EDGES, ERRORS

_COUNTS = ("images", "sentences")
_IN_METRES = ("rmse", "sq_rel")


def write_value(name: str, value: float) -> str:
    """A metric as people read it."""
    if math.isnan(value):
        return "–"
    if name.startswith(_COUNTS):
        return f"{value:.0f}"
    if (error := name.removesuffix(EDGES)) in ERRORS:  # shares within a ratio are fractions, as in the benchmarks
        return f"{value:.4f}" + (" m" if error in _IN_METRES else "")
    return f"{100 * value:.2f} %"


def number_of(value: Any) -> float:
    """A number of JSON, in which what is not finite is null."""
    return float(value) if isinstance(value, (int, float)) else math.nan
