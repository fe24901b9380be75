"""Objects that annotation tools outline on pictures, painted on label pictures; their numbers are not trusted."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vpd.errors import UsageError
from vpd.files.decoding import PHOTO_FORMATS, Encoded, check_size, decode_file

Points = list[tuple[float, float]]

_FARTHEST = 4
"""Points may lie this many picture sizes away."""
_MOST_POINTS = 100_000
_MOST_BYTES = 2**26
"""Of a packed mask, unpacked."""


def read_points(value: Any, size: tuple[int, int], least: int, where: str) -> Points:
    """Points of an outline, checked.

    Args:
        value: `[[x, y], ...]`, pixels.
        size: Height and width of the picture.
        least: Number of points that are needed.
        where: What messages call the object.

    Raises:
        UsageError: If it is something else, or leads far out of the picture.
    """
    if not isinstance(value, list) or not least <= len(value) <= _MOST_POINTS:
        raise UsageError(f"{where}: needs {least} points or more (at most {_MOST_POINTS:,}), as [[x, y], ...]")
    farthest = _FARTHEST * max(size)
    for point in value:
        is_pair = isinstance(point, list) and len(point) == 2 and all(type(part) in (int, float) for part in point)
        if not is_pair or not all(abs(part) <= farthest for part in point):  # NaN is not, either
            raise UsageError(f"{where}: {str(point)[:60]} is no place in or near a {size[1]}x{size[0]} picture")
    return [(float(x), float(y)) for x, y in value]


def fill_polygon(size: tuple[int, int], outer: Points, holes: Sequence[Points] = ()) -> NDArray[np.bool_]:
    """Pixels `(H, W)` of a polygon, its outline included, without those of its holes."""
    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    draw.polygon(outer, fill=1, outline=1)
    for hole in holes:
        draw.polygon(hole, fill=0, outline=0)
    return np.array(canvas)


def fill_rectangle(size: tuple[int, int], corners: Points) -> NDArray[np.bool_]:
    """Pixels `(H, W)` of an upright rectangle between two corners, both included."""
    canvas = Image.new("1", (size[1], size[0]))
    (left, right), (top, bottom) = (sorted(values) for values in zip(*corners[:2], strict=True))
    ImageDraw.Draw(canvas).rectangle((left, top, right, bottom), fill=1, outline=1)
    return np.array(canvas)


def fill_ellipse(size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.bool_]:
    """Pixels `(H, W)` of an upright ellipse round a point."""
    canvas = Image.new("1", (size[1], size[0]))
    (x, y), (across, down) = centre, (abs(radius) for radius in radii)
    ImageDraw.Draw(canvas).ellipse((x - across, y - down, x + across, y + down), fill=1, outline=1)
    return np.array(canvas)


def place_mask(size: tuple[int, int], packed: Any, origin: tuple[float, float], where: str) -> NDArray[np.bool_]:
    """Pixels `(H, W)` of a packed mask whose upper left corner lies at a point.

    Args:
        size: Height and width of the picture.
        packed: A PNG in base64, also compressed by zlib; transparent or 0 = outside.
        origin: Column and row of its corner.
        where: What messages call the object.

    Raises:
        UsageError: If it is no such picture, or too large.
    """
    part = _unpack_mask(packed, where)
    left, top = (round(value) for value in origin)
    mask = np.zeros(size, dtype=np.bool_)
    rows, columns = (
        slice(max(start, 0), min(start + extent, limit))
        for start, extent, limit in zip((top, left), part.shape, size, strict=True)
    )
    if rows.start < rows.stop and columns.start < columns.stop:
        mask[rows, columns] = part[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return mask


def _unpack_mask(packed: Any, where: str) -> NDArray[np.bool_]:
    content = decode_base64(packed, where)
    if not content.startswith(b"\x89PNG"):
        try:
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(content, _MOST_BYTES)
        except zlib.error as error:
            raise UsageError(f"{where}: its mask is no PNG, compressed or not ({error})") from error
        if unpacker.unconsumed_tail:
            raise UsageError(f"{where}: its mask has more than {_MOST_BYTES:,} bytes")
    image, _, _ = decode_file(Encoded(content, f"mask of {where}"), ("PNG",))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        return np.asarray(image.convert("RGBA"))[..., 3] > 0
    if image.mode == "P":  # palette numbers, not colours
        return np.asarray(image) > 0
    return np.asarray(image.convert("L")) > 0


def decode_base64(value: Any, where: str) -> bytes:
    """Bytes of a text in base64.

    Raises:
        UsageError: If it is none.
    """
    try:
        return base64.b64decode(value, validate=False) if isinstance(value, str) else b""
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{where}: not base64 ({error})") from error


def picture_size(value: Any, where: str) -> tuple[int, int]:
    """Height and width that a file states.

    Raises:
        UsageError: If they are no whole numbers, or beyond what is read.
    """
    height, width = value
    if type(height) is not int or type(width) is not int:
        raise UsageError(f"{where}: height and width of the picture must be whole numbers, not {height!r}, {width!r}")
    check_size((width, height), where)
    return height, width


def measured_size(path: Path | Encoded, *, turn: bool = True) -> tuple[int, int]:
    """Height and width of a picture by its header, turned as its EXIF says unless `turn` is false.

    Raises:
        UsageError: If it is none.
    """
    try:
        with Image.open(
            io.BytesIO(path.content) if isinstance(path, Encoded) else path, formats=PHOTO_FORMATS
        ) as image:
            check_size(image.size, str(path))
            is_turned = turn and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return image.size if is_turned else (image.size[1], image.size[0])
    except UsageError:
        raise
    except Exception as error:  # decoders raise every kind of exception
        raise UsageError(f"{path}: not an image that can be read here") from error
