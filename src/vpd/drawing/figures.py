"""Figures of matplotlib, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.drawing.colours import depth_colours
from vpd.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT_INCHES = 4.5


def side_by_side(image: Image.Image, drawn: Image.Image, title: str) -> Figure:
    """A picture, and beside it what was made of it."""
    figure, (left, right) = _two(image)
    left.imshow(image)
    right.imshow(drawn)
    right.set_title(title, fontsize=10)
    return figure


def with_scale(image: Image.Image, depth_m: NDArray[np.floating], near_m: float, far_m: float) -> Figure:
    """A picture, and beside it its depth `(H, W)` in colours between two depths, with their scale in metres."""
    figure, (left, right) = _two(image)
    from matplotlib.colors import ListedColormap

    left.imshow(image)
    shown = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan)
    drawn = right.imshow(shown, cmap=ListedColormap(depth_colours() / 255), vmin=near_m, vmax=far_m)
    figure.colorbar(drawn, ax=right, label="metres", shrink=0.8)
    return figure


def _two(image: Image.Image) -> tuple[Figure, Any]:
    """A figure with two places for a picture; it belongs to no window, so that nothing is left open."""
    try:
        import matplotlib.pyplot  # noqa: F401, in a notebook it makes that figures are shown
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"plot() needs matplotlib ({error}): pip install matplotlib, or vpd-perception[figures]; overlay() does "
            "without."
        ) from error
    width = 2 * _HEIGHT_INCHES * min(3.0, max(0.4, image.width / image.height)) + 0.8
    figure = Figure(figsize=(width, _HEIGHT_INCHES), layout="constrained")
    places = figure.subplots(1, 2)
    for place in places:
        place.set_axis_off()
    return figure, places
