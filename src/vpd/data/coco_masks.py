"""COCO segmentations (polygons and run lengths, both kinds) to masks, without trusting their numbers."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from vpd.decoding import check_size
from vpd.errors import UsageError

Overlap = Literal["union", "background"]

_FARTHEST = 4
"""Polygon points may lie this many image sizes away; beyond, drawing would take memory without end."""


def decode_mask(
    segmentation: Any, *, height: int, width: int, overlap: Overlap = "union", name: str
) -> NDArray[np.bool_]:
    """Mask `(H, W)` of one object.

    Args:
        segmentation: List of polygons `[x1, y1, x2, y2, ...]`, one run-length dictionary, or a list of those.
        height: Height of the picture, pixels.
        width: Width of the picture, pixels.
        overlap: What pixels are that several parts cover: `union`: object; `background`: not, as in the
            reference, which keeps the pixels where the parts sum to exactly 1.
        name: What messages call the object.

    Raises:
        UsageError: If the segmentation has another form, another size, or impossible numbers.
    """
    check_size((width, height), name)
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list) or not parts:
        raise UsageError(f"{name}: the segmentation is empty or neither polygons nor run lengths")
    if all(isinstance(part, list) for part in parts):
        polygons = [_checked_polygon(part, height, width, name) for part in parts]
        covered = coco.decode(coco.frPyObjects(polygons, height, width)).sum(axis=2)  # (H, W, parts) -> (H, W)
    else:
        covered = np.sum([_decode_runs(part, height, width, name) for part in parts], axis=0)
    return covered > 0 if overlap == "union" else covered == 1


def _checked_polygon(points: list[Any], height: int, width: int, name: str) -> list[float]:
    if len(points) < 6 or len(points) % 2:
        raise UsageError(f"{name}: a polygon of {len(points)} numbers; needs 6 or more, in pairs")
    farthest = _FARTHEST * max(height, width)
    for value in points:
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if not is_number or abs(value) > farthest:
            raise UsageError(f"{name}: polygon point {value!r} is no place in or near a {width}x{height} picture")
    return [float(value) for value in points]


def _decode_runs(part: Any, height: int, width: int, name: str) -> NDArray[np.bool_]:
    counts = part.get("counts") if isinstance(part, dict) else None
    if not isinstance(counts, (str, bytes, list)):
        raise UsageError(f"{name}: parts of a segmentation must be all polygons or all run lengths")
    if part.get("size") != [height, width]:
        raise UsageError(f"{name}: run lengths are for size {part.get('size')}, the picture has {[height, width]}")
    runs = counts if isinstance(counts, list) else _unpack(counts.encode() if isinstance(counts, str) else counts)
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise UsageError(f"{name}: run lengths do not add up to {height}x{width} pixels")
    values = np.arange(len(runs)) % 2 == 1  # off and on in turn, column by column
    return np.repeat(values, runs).reshape(width, height).T


def _unpack(packed: bytes) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character; from the fourth run on, differences to the last but one.

    Decoded here, not by pycocotools, so that damaged text cannot reach C code.
    """
    runs: list[int] = []
    value = shift = 0
    for character in packed:
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more to come
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
