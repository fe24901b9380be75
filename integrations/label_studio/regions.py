"""Masks as regions of Label Studio: brush strokes in its own run lengths, or polygons."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrations.label_studio.label_config import Control, Label
from vpd.tasks.conversions import Region, polygons

_LENGTH_BITS = (3, 4, 8, 16)
"""A run says in two bits which of these its length has."""
_CHANNELS, _BLOCK = 4, 100_000


def label_regions(control: Control, label: Label, region: Region) -> Iterator[dict[str, Any]]:
    """A mask under a label: one brush region, or a polygon for each of its parts.

    Args:
        control: The tag that draws it.
        label: What it is called there.
        region: The mask.

    Raises:
        UsageError: If polygons are wanted and OpenCV is not installed.
    """
    height, width = region.mask.shape
    if control.kind == "brushlabels":
        values: list[dict[str, Any]] = [{"format": "rle", "rle": encode_brush(region.mask)}]
    else:
        outlines = [outline * 100 / (width, height) for outline in polygons(region.mask)]
        values = [{"points": outline.round(3).tolist(), "closed": True} for outline in outlines]
    for value in values:
        yield {
            "id": uuid.uuid4().hex[:10],
            "type": control.kind,
            "from_name": control.name,
            "to_name": control.to_name,
            "value": {**value, control.kind: [label.name]},
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            **({} if region.score is None else {"score": round(region.score, 4)}),
        }


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """A mask `(H, W)` as Label Studio packs brush strokes: bytes of an RGBA picture whose transparency is the mask.

    `vpd.datasets.label_studio.decode_brush` reads it back.

    Source: the format of https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack, with runs alone.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(np.append(starts, flat.size)) * _CHANNELS
    most = 1 << _LENGTH_BITS[-1]
    pieces = -(-lengths // most)  # long runs are cut
    values = np.repeat(flat[starts], pieces).astype(np.uint32) * 255
    runs = np.full(pieces.sum(), most)
    runs[pieces.cumsum() - 1] = lengths - (pieces - 1) * most
    bits = [
        _run_bits(runs[start : start + _BLOCK], values[start : start + _BLOCK]) for start in range(0, len(runs), _BLOCK)
    ]
    head = f"{flat.size * _CHANNELS:032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in _LENGTH_BITS)
    packed: list[int] = np.packbits(np.concatenate([np.array(list(head), np.uint8), *bits])).tolist()
    return packed


def _run_bits(runs: NDArray[Any], values: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Bits of runs of bytes: 1 for a run, 2 for which of the lengths it has, its length less 1, its byte."""
    which = np.searchsorted([1 << bits for bits in _LENGTH_BITS], runs).astype(np.uint32)
    length_bits = np.array(_LENGTH_BITS, np.uint32)[which]
    codes = (((np.uint32(4) + which) << length_bits | (runs - 1).astype(np.uint32)) << np.uint32(8)) | values
    places = np.arange(32, dtype=np.uint32)[::-1]
    wanted = places < (length_bits + np.uint32(11))[:, None]
    return ((codes[:, None] >> places) & np.uint32(1))[wanted].astype(np.uint8)
