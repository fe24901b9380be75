"""Pictures of where predictions are wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.drawing.overlays import UNKNOWN_COLOUR
from vpd.drawing.text import Colour

Legend = tuple[tuple[Colour, str], ...]
"""Colours and their meaning."""

_WRONG, _MISSED, _RIGHT = (226, 52, 57), (49, 134, 233), (48, 173, 81)
_LARGEST = 0.25  # relative error of the darkest colour
LABEL_LEGEND: Legend = ((_WRONG, "wrong class"), (UNKNOWN_COLOUR, "not labelled"))
MASK_LEGEND: Legend = ((_RIGHT, "right"), (_WRONG, "marked in error"), (_MISSED, "missed"))
DEPTH_LEGEND: Legend = (
    (_MISSED, f"{_LARGEST:.0%} or more too near"),
    (_WRONG, f"{_LARGEST:.0%} or more too far"),
    (UNKNOWN_COLOUR, "not measured"),
)


def label_errors(
    image: Image.Image, predicted: NDArray[np.integer], labels: NDArray[np.integer], ignored: int
) -> Image.Image:
    """The image, faint, with pixels of a wrong class in red; labels `(H, W)`."""
    pixels = _faint(image)
    pixels[predicted != labels] = _WRONG
    pixels[labels == ignored] = UNKNOWN_COLOUR
    return Image.fromarray(pixels)


def mask_errors(image: Image.Image, predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Image.Image:
    """The image, faint, with what is right, marked in error and missed; masks `(H, W)`."""
    pixels = _faint(image)
    for where, colour in ((predicted & mask, _RIGHT), (predicted & ~mask, _WRONG), (~predicted & mask, _MISSED)):
        pixels[where] = colour
    return Image.fromarray(pixels)


def depth_error_map(pred_m: NDArray[np.floating], target_m: NDArray[np.floating]) -> Image.Image:
    """Relative error in colours, blue = too near, white = right, red = too far; metres `(H, W)`, truth 0 = none."""
    is_known = np.isfinite(target_m) & (target_m > 0)
    error = np.where(is_known, (pred_m - target_m) / np.where(is_known, target_m, 1), 0)
    share = np.nan_to_num(error / _LARGEST).clip(-1, 1)[..., None]
    ends = np.where(share < 0, np.array(_MISSED), np.array(_WRONG))
    pixels = (255 + (ends - 255) * np.abs(share)).round().astype(np.uint8)
    pixels[~is_known] = UNKNOWN_COLOUR
    return Image.fromarray(pixels)


def _faint(image: Image.Image) -> NDArray[np.uint8]:
    grey = np.asarray(image.convert("L").convert("RGB"), np.uint8)
    return (200 + 0.2 * grey).astype(np.uint8)
