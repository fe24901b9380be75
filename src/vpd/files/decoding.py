"""Turn untrusted image files into Pillow images: limits first, one-line errors, any colour mode to RGB."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vpd.errors import UsageError, first_line

MAX_PIXELS = 120_000_000
"""Largest image that is decoded, pixels. Checked on the header, before any memory is taken."""

PHOTO_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""Formats that Pillow may try; none of them runs another program."""
LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP")
"""Formats that keep labels and depth as they are."""

_MODES = {
    "1": "one bit, black and white",
    "L": "one channel of 8 bits (grey)",
    "P": "numbers of a palette",
    "LA": "grey with transparency",
    "RGB": "three channels of colour",
    "RGBA": "three channels of colour with transparency",
    "CMYK": "four channels of printing colours",
    "YCbCr": "three channels of colour",
    "F": "one channel of floating-point numbers",
}
_FULL_SCALES = (1.0, 255.0, 65535.0)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Encoded:
    """An image file inside another file, such as an archive or a table."""

    content: bytes
    """Its bytes."""
    name: str
    """What messages call it."""

    def __str__(self) -> str:
        return self.name


def decode_file(path: Path | Encoded, formats: tuple[str, ...]) -> tuple[Image.Image, str]:
    """The decoded first picture of a file, in the file's own colour mode, and the raw mode it was stored in.

    Raises:
        UsageError: If there is no such file, or it is empty, too large, truncated, or no image.
    """
    try:
        if isinstance(path, Path) and not path.exists():
            raise UsageError(f"{path}: no such file")
        if isinstance(path, Path) and not path.is_file():
            raise UsageError(f"{path}: not a file; an image file is needed here")
        if not (path.content if isinstance(path, Encoded) else path.stat().st_size):
            raise UsageError(f"{path}: the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that we allow and of odd metadata
            with Image.open(io.BytesIO(path.content) if isinstance(path, Encoded) else path, formats=formats) as image:
                check_size(image.size, str(path))
                raw_mode = _raw_mode(image)
                image.load()
                return image, raw_mode
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{path}: not an image that can be read here ({', '.join(formats)})") from None
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", f"{error} 0")[0])
        raise UsageError(_too_large(str(path), pixels / 1e6)) from None
    except OSError as error:
        what = error.strerror or f"damaged image, {first_line(error)}"
        raise UsageError(f"{path}: cannot be read ({what})") from error
    except Exception as error:  # decoders raise every kind of exception on damaged files
        raise UsageError(f"{path}: cannot be read (damaged image, {first_line(error)})") from error


def mode_words(mode: str) -> str:
    """What Pillow calls the mode of a picture, in words."""
    return _MODES.get(mode, "one channel of 16 bits or more" if mode.startswith("I") else f"channels {mode}")


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse images without pixels or with more than `MAX_PIXELS`.

    Raises:
        UsageError: If `(width, height)` is outside the limits.
    """
    width, height = size
    if width < 1 or height < 1:
        raise UsageError(f"{name}: the image has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise UsageError(_too_large(f"{name}: {width}x{height}", width * height / 1e6))


def to_rgb(image: Image.Image, name: str, *, turn: bool = True) -> Image.Image:
    """Upright 8-bit RGB, whatever the colour mode; transparent parts show a white ground. `turn=False`: as it lies.

    16-bit values are scaled by 1/257, not clipped. Floating-point values are taken to span 0..1, 0..255 or
    0..65535, whichever fits their maximum.

    Raises:
        UsageError: If the colour mode has no such meaning (a LAB TIFF, say).
    """
    try:
        image.load()  # before asking for the orientation: Pillow turns a TIFF while loading it
        upright = _UPRIGHT.get(exif_orientation(image)) if turn else None
        if image.mode.startswith("I") or image.mode == "F":
            rgb = Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
        elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        else:
            rgb = image.convert("RGB")
    except (ValueError, OSError) as error:  # a PIL image may still have to be read
        raise UsageError(f"{name}: mode {image.mode} cannot be turned into RGB ({first_line(error)})") from error
    return rgb if upright is None else rgb.transpose(upright)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values of any kind as uint8, full scale guessed from the type or the largest value."""
    full = _FULL_SCALES[-1]
    if values.dtype.kind != "u":
        scales = _FULL_SCALES if values.dtype.kind == "f" else _FULL_SCALES[-1:]
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        top = float(values.max())
        full = next((scale for scale in scales if top <= 2 * scale), top)  # a little over the scale is overexposed
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded picture, 1 = upright; damaged EXIF says nothing."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken tag is no reason to refuse the pixels
        return 1


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels, such as `L;4` for 4-bit grey; must be asked before loading."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _too_large(what: str, megapixels: float) -> str:
    return f"{what}: {megapixels:.0f} megapixels; the limit is {MAX_PIXELS / 1e6:.0f}. Shrink the image first"
