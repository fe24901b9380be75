"""Turn untrusted image files into Pillow images: limits first, one-line errors, any colour mode to RGB."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError

from vpd.errors import UsageError, first_line
from vpd.files.greys import is_deep, to_8_bits
from vpd.files.png_texts import SIGNATURE, without_packed_texts
from vpd.files.signatures import HEAD_BYTES, found_format, remedy
from vpd.files.tiff_tags import count_pictures, float16_as_integers, float16_of_integers, read_tiff_pixels

MAX_PIXELS = 120_000_000
"""Largest image that is decoded, pixels. Checked on the header, before any memory is taken."""

_EXTRA_FORMATS = {"AVIF": "PIL._avif", "HEIF": "pillow_heif"}
"""Formats that are read where a module is there."""
PHOTO_FORMATS = (
    *("PNG", "JPEG", "WEBP", "TIFF", "BMP"),
    *(name for name, module in _EXTRA_FORMATS.items() if find_spec(module)),
)
"""Formats that may be tried; none of them runs another program."""
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
_ENDINGS = {"JPEG": ("jpg", "jpeg", "jpe", "jfif"), "TIFF": ("tif", "tiff"), "HEIF": ("heic", "heif", "hif")}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNING = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for an orientation


@dataclass(frozen=True)
class Encoded:
    """An image file inside another file, such as an archive or a table."""

    content: bytes
    """Its bytes."""
    name: str
    """What messages call it."""

    def __str__(self) -> str:
        return self.name


class Decoded(NamedTuple):
    """What an image file holds."""

    image: Image.Image
    """Its first picture, decoded, in the file's own colour mode."""
    raw_mode: str
    """How the file packs its pixels, such as `L;4` for 4-bit grey."""
    frames: int
    """How many pictures it holds."""


class _Quiet:
    """Ignores warnings while any thread decodes.

    Of several threads that overlap, `warnings.catch_warnings` alone would put back what another had set, and all
    warnings of the program would be gone for good.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_QUIET = _Quiet()


class TooLargeError(UsageError):
    """An image with more pixels than may be decoded."""


def decode_file(path: Path | Encoded, formats: tuple[str, ...], *, most_px: int | None = None) -> Decoded:
    """The decoded first picture of a file.

    Args:
        path: The file.
        formats: What it may be.
        most_px: Most pixels that are decoded; none = `MAX_PIXELS`.

    Raises:
        UsageError: If there is no such file, or it is empty, too large, truncated, or no image of these formats.
    """
    try:
        if isinstance(path, Path) and not path.exists():
            raise UsageError(f"{path}: no such file")
        if isinstance(path, Path) and not path.is_file():
            raise UsageError(f"{path}: not a file; an image file is needed here")
        if not (path.content if isinstance(path, Encoded) else path.stat().st_size):
            raise UsageError(f"{path}: the file is empty")
        with _QUIET:  # Pillow warns of sizes that we allow and of odd metadata
            return _decode(path, formats, most_px)
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{path}: {_unknown(path, formats)}") from None
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", f"{error} 0")[0])
        raise TooLargeError(_too_large(str(path), pixels / 1e6, MAX_PIXELS if most_px is None else most_px)) from None
    except OSError as error:
        what = error.strerror or f"damaged image, {first_line(error)}"
        raise UsageError(f"{path}: cannot be read ({what})") from error
    except Exception as error:  # decoders raise every kind of exception on damaged files
        raise UsageError(f"{path}: cannot be read (damaged image, {first_line(error)})") from error


def declared_pixels(file: Encoded, formats: tuple[str, ...], *, most_px: int | None = None) -> int | None:
    """Pixels that the header of an image file tells of; none where decoding it will say what is wrong.

    Raises:
        TooLargeError: If they are more than `most_px`.
    """
    known = tuple(kind for kind in formats if kind != "HEIF")
    try:
        with _QUIET, Image.open(io.BytesIO(file.content), formats=known) as image:
            check_size(image.size, str(file), most_px=most_px)
            return image.width * image.height
    except TooLargeError:
        raise
    except Exception:  # decoders raise every kind of exception on damaged files
        return None


def _decode(path: Path | Encoded, formats: tuple[str, ...], most_px: int | None) -> Decoded:
    """`decode_file` for a file that is there; what Pillow has no way to read is given to it in one that it knows."""
    name = str(path)
    try:
        return _load(io.BytesIO(path.content) if isinstance(path, Encoded) else path, name, formats, most_px)
    except UnidentifiedImageError:
        with _opened(path) as file:
            found = found_format(file.read(HEAD_BYTES))
            file.seek(0)
            if found == "HEIF" and found in formats:
                return _load_image(import_module("pillow_heif").HeifImageFile(file), name, most_px)
            pixels = read_tiff_pixels(file) if found == "TIFF" and found in formats else None
            if pixels and pixels.is_grey_float16:
                file.seek(0)
                decoded = _load(float16_as_integers(file, pixels), name, ("TIFF",), most_px)
                return decoded._replace(image=float16_of_integers(decoded.image))
        raise
    except ValueError:  # Pillow unpacks no more than a megabyte of text, whatever the picture
        with _opened(path) as file:
            if "PNG" not in formats or file.read(len(SIGNATURE)) != SIGNATURE:
                raise
            file.seek(0)
            return _load(without_packed_texts(file), name, ("PNG",), most_px)


def _load(source: Path | IO[bytes], name: str, formats: tuple[str, ...], most_px: int | None) -> Decoded:
    known = tuple(kind for kind in formats if kind != "HEIF")  # Pillow knows it only where somebody registered it
    with Image.open(source, formats=known) as image:
        return _load_image(image, name, most_px)


def _load_image(image: Image.Image, name: str, most_px: int | None) -> Decoded:
    """Decode an image that was opened, once its size is known to be allowed."""
    check_size(image.size, name, most_px=most_px)
    raw_mode, frames = _raw_mode(image), 1
    try:
        file = getattr(image, "fp", None)
        frames = count_pictures(file) if image.format == "TIFF" and file else getattr(image, "n_frames", 1)
    except Exception:  # what follows the first picture is damaged
        with suppress(Exception):
            image.seek(0)
    image.load()
    return Decoded(image, raw_mode, frames)


@contextmanager
def _opened(path: Path | Encoded) -> Iterator[IO[bytes]]:
    with io.BytesIO(path.content) if isinstance(path, Encoded) else path.open("rb") as file:
        yield file


def _unknown(path: Path | Encoded, formats: tuple[str, ...]) -> str:
    """What a file is that was not identified, and what to do."""
    with _opened(path) as file:
        found = found_format(file.read(HEAD_BYTES))
        file.seek(0)
        if found == "TIFF" and found in formats and (pixels := read_tiff_pixels(file)):
            return f"a TIFF of a kind that cannot be read: {pixels}. Save it as TIFF of one channel, or as PNG"
    if found is None:
        return f"not an image that can be read here ({', '.join(formats)})"
    if found in formats:
        return f"cannot be read (damaged {found})"
    suffix = Path(str(path)).suffix.lower()
    named = (
        f" though it is named {suffix}" if suffix and suffix[1:] not in _ENDINGS.get(found, (found.lower(),)) else ""
    )
    return f"holds {found}{named}{remedy(found, formats)}"


def mode_words(mode: str) -> str:
    """What Pillow calls the mode of a picture, in words."""
    return _MODES.get(mode, "one channel of 16 bits or more" if mode.startswith("I") else f"channels {mode}")


def check_size(size: tuple[int, int], name: str, *, most_px: int | None = None) -> None:
    """Refuse images without pixels or with more than `most_px`; none = `MAX_PIXELS`.

    Raises:
        UsageError: If `(width, height)` is outside the limits.
    """
    width, height = size
    if width < 1 or height < 1:
        raise UsageError(f"{name}: the image has no pixels ({width}x{height})")
    most_px = MAX_PIXELS if most_px is None else most_px
    if width * height > most_px:
        raise TooLargeError(_too_large(f"{name}: {width}x{height}", width * height / 1e6, most_px))


def to_rgb(image: Image.Image, name: str, *, stretch: bool = False, turn: bool = True) -> Image.Image:
    """Upright 8-bit RGB, whatever the colour mode; transparent parts show a white ground. `turn=False`: as it lies.

    What was turned says no more that it has to be, so that it may be handed on as a picture.

    Grey of more than 8 bits, with a sign or of floating point is scaled by the rule of `greys`, or stretched.

    Raises:
        UsageError: If the colour mode has no such meaning (a LAB TIFF, say).
    """
    try:
        image.load()  # before asking for the orientation: Pillow turns a TIFF while loading it
        upright = _UPRIGHT.get(exif_orientation(image)) if turn else None
        if is_deep(image):
            rgb = Image.fromarray(to_8_bits(image, stretch=stretch)).convert("RGB")
        elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        else:
            rgb = image.convert("RGB")
    except (ValueError, OSError) as error:  # a PIL image may still have to be read
        raise UsageError(f"{name}: mode {image.mode} cannot be turned into RGB ({first_line(error)})") from error
    if upright is None:
        return rgb
    turned = rgb.transpose(upright)
    for key in _TURNING:
        turned.info.pop(key, None)
    return turned


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


def _too_large(what: str, megapixels: float, most_px: int) -> str:
    return f"{what}: {megapixels:.0f} megapixels; the limit is {most_px / 1e6:.3g}. Shrink the image first"
