"""What a TIFF says of its pixels; and float16, which Pillow does not read."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

_BITS, _SAMPLES, _KIND = 258, 277, 339
_KINDS = {1: "uint", 2: "int", 3: "float"}
_SHORT = 3
MOST_COUNTED = 10_000


@dataclass(frozen=True)
class TiffPixels:
    """Of the first picture of a TIFF."""

    bits: tuple[int, ...]
    """Of each channel."""
    channels: int
    """1 = grey."""
    kind: int
    """1 = whole numbers, 2 = with sign, 3 = floating point."""
    kind_at: int | None
    """Where in the file that stands, bytes."""

    @property
    def is_grey_float16(self) -> bool:
        """Whether it can be read as whole numbers whose bits are looked at anew."""
        return (self.bits, self.channels, self.kind) == ((16,), 1, 3) and self.kind_at is not None

    def __str__(self) -> str:
        """In words, such as `float16 grey`."""
        name = f"{_KINDS.get(self.kind, 'complex ')}{'/'.join(map(str, dict.fromkeys(self.bits)))}"
        return f"{name} {'grey' if self.channels == 1 else f'colour, {self.channels} channels'}"


def read_tiff_pixels(file: IO[bytes]) -> TiffPixels | None:
    """What the first picture of a TIFF consists of; none where the file is damaged or a BigTIFF."""
    try:
        head = file.read(8)
        order = "<" if head[:2] == b"II" else ">"
        version, start = struct.unpack(f"{order}HI", head[2:])
        if version != 42:
            return None
        file.seek(start)
        entries = file.read(12 * struct.unpack(f"{order}H", file.read(2))[0])
        values, places = {}, {}
        for at in range(0, len(entries) - 11, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", entries, at)
            if tag not in (_BITS, _SAMPLES, _KIND) or kind != _SHORT or not 0 < count < 1000:
                continue
            places[tag] = start + 2 + at + 8
            content = entries[at + 8 : at + 12]
            if count > 2:
                file.seek(struct.unpack(f"{order}I", content)[0])
                content = file.read(2 * count)
            values[tag] = struct.unpack_from(f"{order}{count}H", content)
        return TiffPixels(
            bits=values.get(_BITS, (1,)),
            channels=values.get(_SAMPLES, (1,))[0],
            kind=values.get(_KIND, (1,))[0],
            kind_at=places.get(_KIND),
        )
    except struct.error:
        return None


def count_pictures(file: IO[bytes]) -> int:
    """How many pictures a TIFF holds, at most `MOST_COUNTED`; reads no more of each than where the next begins."""
    before, seen = file.tell(), set[int]()
    try:
        file.seek(0)
        head = file.read(8)
        order = "<" if head[:2] == b"II" else ">"
        version, start = struct.unpack(f"{order}HI", head[2:])
        while version == 42 and start and start not in seen and len(seen) < MOST_COUNTED:
            seen.add(start)
            file.seek(start)
            file.seek(12 * struct.unpack(f"{order}H", file.read(2))[0], io.SEEK_CUR)
            (start,) = struct.unpack(f"{order}I", file.read(4))
    except struct.error:
        pass  # what follows is cut off
    finally:
        file.seek(before)
    return max(1, len(seen))


def float16_as_integers(file: IO[bytes], pixels: TiffPixels) -> IO[bytes]:
    """A grey float16 TIFF that calls its numbers whole, so that Pillow unpacks their bits."""
    content = file.read()
    at, order = pixels.kind_at or 0, "little" if content[:2] == b"II" else "big"
    return io.BytesIO(content[:at] + int.to_bytes(1, 2, order) + content[at + 2 :])  # type: ignore[arg-type]


def float16_of_integers(image: Image.Image) -> Image.Image:
    """The floating-point picture, mode F, that was unpacked as whole numbers."""
    bits = np.asarray(image)
    return Image.fromarray(bits.view(bits.dtype.str.replace("u", "f")).astype(np.float32))


def grey_values(image: Image.Image) -> np.ndarray:
    """Values of a decoded picture of one channel, `(H, W)`, of the type that its file gives them.

    Pillow keeps unsigned 32-bit numbers of a TIFF as signed ones, and signed ones of 8 bits as unsigned.
    """
    values, is_signed = np.asarray(image), has_sign(image)
    if values.dtype == np.int32 and bits_used(image) == 32 and not is_signed:
        return values.view(np.uint32)
    if values.dtype == np.int32 and bits_used(image) == 16 and is_signed:
        return values.astype(np.int16)
    return values.view(np.int8) if values.dtype == np.uint8 and is_signed else values


def has_sign(image: Image.Image) -> bool:
    """Whether a TIFF says that its numbers are whole ones with a sign."""
    return bool(getattr(image, "tag_v2", {}).get(_KIND) == (2,))


def bits_used(image: Image.Image) -> int:
    """How many bits of a value a TIFF uses, such as 12; 0 where it is none."""
    return int(getattr(image, "tag_v2", {}).get(_BITS, (0,))[0])
