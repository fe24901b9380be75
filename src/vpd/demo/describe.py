"""Words for what is on a picture of an answer or a truth, for those who do not see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.drawing.overlays import percent

_SIDES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)


def describe(pixels: NDArray[Any], classes: Sequence[str] = ()) -> str:
    """Labels, a mask or a depth map `(H, W)` in words, such as `wall 45%, floor 30%, cube 25%`.

    Args:
        pixels: Labels (whole numbers), a mask (bool) or depth in metres (floats).
        classes: Names of the labels.
    """
    if pixels.dtype == np.bool_:
        return _mask_words(pixels)
    if np.issubdtype(pixels.dtype, np.floating):
        known = pixels[pixels > 0]
        return f"depth from {known.min():.1f} to {known.max():.1f} m" if known.size else "no depth"
    counts = np.bincount(pixels.ravel(), minlength=len(classes))[: len(classes)]
    shares = [(count / pixels.size, name) for count, name in zip(counts, classes, strict=True) if count]
    return ", ".join(f"{name} {percent(share)}" for share, name in sorted(shares, reverse=True)) or "no class"


def _mask_words(mask: NDArray[np.bool_]) -> str:
    """How much is marked, and in which ninth of the picture its middle is."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return "nothing is marked"
    row, column = (int(3 * places.mean() // side) for places, side in zip((rows, columns), mask.shape, strict=True))
    return f"{percent(rows.size / mask.size)} of the picture is marked, around its {_SIDES[row][column]}"
