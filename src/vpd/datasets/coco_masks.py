"""COCO segmentations (polygons and run lengths, both kinds) to masks, without trusting their numbers."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from vpd.errors import UsageError
from vpd.files.decoding import check_size

Overlap = Literal["union", "background"]

_FARTHEST = 4
"""Polygon points may lie this many image sizes away; beyond, drawing would take memory without end."""
_MOST_BITS = 60
"""No run of a picture is longer; packed numbers that go on beyond would take time without end."""
_LONGEST_OUTLINE_PX = 4_000_000
"""Drawing takes memory for every pixel on the way from point to point, however often it goes to and fro."""


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
    covered = np.zeros((height, width), dtype=np.int32)
    for part, draws in _parts(segmentation, name):  # one by one: all at once would take a picture's memory for each
        covered += (_draw_polygon if draws else _decode_runs)(part, height, width, name)
    return covered > 0 if overlap == "union" else covered == 1


def outline_fault(segmentation: Any, *, height: int, width: int, name: str, inside: bool = True) -> str | None:
    """Why a segmentation cannot be drawn, as far as that is seen without decoding packed run lengths; none = it can.

    Args:
        segmentation: As `decode_mask` takes it.
        height: Height of the picture, pixels.
        width: Width of the picture, pixels.
        name: What messages call the object.
        inside: Whether polygons beside the picture are wrong.
    """
    if type(segmentation) is list and segmentation and all(_is_plain(part, height, width) for part in segmentation):
        return None
    try:
        for part, draws in _parts(segmentation, name):
            if draws:
                _check_polygon(part, height, width, name)
            else:
                _check_runs(part, height, width, name)
        if inside:
            check_inside(segmentation, height=height, width=width, name=name)
    except UsageError as error:
        return str(error)
    return None


def _is_plain(points: Any, height: int, width: int) -> bool:
    """Whether a polygon is right at a glance: in pairs, inside the picture, and not too long."""
    if type(points) is not list or len(points) < 6 or len(points) % 2:
        return False
    try:
        is_inside = min(points) >= 0 and max(points[::2]) <= width and max(points[1::2]) <= height
        is_number = math.isfinite(sum(points))
    except (TypeError, OverflowError):
        return False
    return is_inside and is_number and len(points) * (height + width) <= _LONGEST_OUTLINE_PX


def _parts(segmentation: Any, name: str) -> list[tuple[Any, bool]]:
    """Parts of a segmentation, and whether they are polygons."""
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list) or not parts:
        raise UsageError(f"{name}: the segmentation is empty or neither polygons nor run lengths")
    draws = all(isinstance(part, list) for part in parts)
    return [(part, draws) for part in parts]


def check_inside(segmentation: Any, *, height: int, width: int, name: str) -> None:
    """Refuse polygons that lie beside the picture; parts of one may reach out of it.

    Args:
        segmentation: What `decode_mask` has taken.
        height: Height of the picture, pixels.
        width: Width of the picture, pixels.
        name: What messages call the object.

    Raises:
        UsageError: If a polygon has no point in common with the picture's rectangle.
    """
    for polygon in (part for part in segmentation if isinstance(part, list)):
        for points, extent, axis in ((polygon[::2], width, "x"), (polygon[1::2], height, "y")):
            if max(points) < 0 or min(points) > extent:
                raise UsageError(
                    f"{name}: a polygon lies outside the {width}x{height} picture ({axis} from {min(points):g} to "
                    f"{max(points):g})"
                )


def _check_polygon(points: list[Any], height: int, width: int, name: str) -> NDArray[np.float64]:
    """Corners, `(n, 2)`."""
    if len(points) < 6 or len(points) % 2:
        raise UsageError(f"{name}: a polygon of {len(points)} numbers; needs 6 or more, in pairs")
    farthest = _FARTHEST * max(height, width)
    for value in points:
        if not isinstance(value, (int, float)) or not abs(value) <= farthest:  # NaN is not, either
            raise UsageError(f"{name}: polygon point {value!r} is no place in or near a {width}x{height} picture")
    corners = np.array(points, dtype=np.float64).reshape(-1, 2)
    length_px = np.abs(np.diff(corners, axis=0, append=corners[:1])).sum()
    if length_px > _LONGEST_OUTLINE_PX:
        raise UsageError(
            f"{name}: a polygon's outline is {length_px:,.0f} px long; the limit is {_LONGEST_OUTLINE_PX:,}"
        )
    return corners


def _draw_polygon(points: list[Any], height: int, width: int, name: str) -> NDArray[np.uint8]:
    corners = _check_polygon(points, height, width, name)
    (runs,) = coco.frPyObjects([corners.ravel().tolist()], height, width)
    return coco.decode(runs)


def _check_runs(part: Any, height: int, width: int, name: str) -> str | bytes | list[int]:
    """Run lengths of the picture's size; that plain ones add up to it is certain, too."""
    counts = part.get("counts") if isinstance(part, dict) else None
    if not isinstance(counts, (str, bytes, list)):
        raise UsageError(f"{name}: parts of a segmentation must be all polygons or all run lengths")
    if part.get("size") != [height, width]:
        raise UsageError(f"{name}: run lengths are for size {part.get('size')}, the picture has {[height, width]}")
    if isinstance(counts, list):
        _check_sum(counts, height, width, name)
    return counts


def _check_sum(runs: list[Any], height: int, width: int, name: str) -> None:
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise UsageError(f"{name}: run lengths do not add up to {height}x{width} pixels")


def _decode_runs(part: Any, height: int, width: int, name: str) -> NDArray[np.bool_]:
    counts = _check_runs(part, height, width, name)
    packed = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    runs = packed if isinstance(packed, list) else _unpack(packed)
    _check_sum(runs, height, width, name)
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
        if shift > _MOST_BITS or not 0 <= bits < 64:
            return []
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more to come
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
