"""Images in and out of tensors: read, scale and pad. All pixels of files come through here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError
from vpd.files.decoding import (
    LOSSLESS_FORMATS,
    PHOTO_FORMATS,
    Encoded,
    check_size,
    decode_file,
    exif_orientation,
    mode_words,
    to_rgb,
)
from vpd.files.greys import is_deep, range_note
from vpd.files.tiff_tags import grey_values

_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
IMAGE_SUFFIXES = tuple(suffix for kind in PHOTO_FORMATS for suffix in _SUFFIXES[kind])
"""What counts as an image when a folder is searched, in lower case."""
DEPTH_SCALE_KEY = "metres_per_step"
"""Key of a PNG's text under which a depth file of ours says what one step of a pixel means."""


class Picture(NamedTuple):
    """A picture that was read from a file."""

    image: Image.Image
    """RGB, upright."""
    frames: int
    """Pictures in the file, of which this is the first."""
    notes: tuple[str, ...]
    """What a user should know of how it was read."""


def read_picture(source: str | Path | Encoded, *, stretch: bool = False, most_px: int | None = None) -> Picture:
    """Picture of a file as `read_image` reads it, and what is to be said of that; of `most_px` pixels at most."""
    decoded = decode_file(_file(source), PHOTO_FORMATS, most_px=most_px)
    notes = [f"first of {decoded.frames} frames"] if decoded.frames > 1 else []
    if is_deep(decoded.image) and not stretch and (note := range_note(decoded.image)):
        notes.append(note)
    return Picture(to_rgb(decoded.image, str(source), stretch=stretch), decoded.frames, tuple(notes))


def read_image(source: str | Path | Encoded | Image.Image | NDArray[Any], *, stretch: bool = False) -> Image.Image:
    """RGB picture: turned as its EXIF orientation says, more than 8 bits scaled to 8, transparent parts on white.

    Grey of more than 8 bits follows one rule: 0 is black, and the largest number that the file can hold is white; of
    32 bits and floating point the first of 1 (floating point), 255 (floating point) and 65535 that fits the values.

    Args:
        source: Path or encoded file; PIL image of any mode; or array `(H, W)`, `(H, W, 3)` or `(H, W, 4)`, uint8 or
            uint16.
        stretch: Make the 0.5th and 99.5th percentile of such grey values black and white instead; 8 bits stay.

    Raises:
        UsageError: If the file is missing, empty, damaged, too large or no image, or the array of another form.
    """
    if isinstance(source, np.ndarray):
        return _image_of_array(source, stretch)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "image")
        check_size(source.size, name)
        return to_rgb(source, name, stretch=stretch)
    return to_rgb(decode_file(_file(source), PHOTO_FORMATS).image, str(source), stretch=stretch)


def read_photo(path: str | Path | Encoded, *, turn: bool = True) -> tuple[Image.Image, int]:
    """Picture of a file as `read_image` makes it, and the EXIF orientation that stands there (1 = upright).

    Args:
        path: Path or encoded file.
        turn: Whether it is turned as the orientation says.

    Raises:
        UsageError: As `read_image`.
    """
    image = decode_file(_file(path), PHOTO_FORMATS).image
    return to_rgb(image, str(path), turn=turn), exif_orientation(image)


def read_labels(path: str | Path | Encoded) -> NDArray[np.uint8]:
    """Label values `(H, W)` of a one-channel picture: grey, or indices of a palette, never colours.

    Raises:
        UsageError: If the file cannot be read, has several channels or values above 255.
    """
    image, raw_mode, _ = decode_file(_file(path), LOSSLESS_FORMATS)
    return label_values(image, raw_mode, str(path))


def label_values(image: Image.Image, raw_mode: str, path: str) -> NDArray[np.uint8]:
    """Label values `(H, W)` of a decoded picture, as `read_labels` has them.

    Args:
        image: The picture.
        raw_mode: How its file packs pixels.
        path: What messages call it.

    Raises:
        UsageError: If it has several channels or values above 255.
    """
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise UsageError(
            f"{path}: labels need one channel (8 or 16 bits or palette); this picture has {mode_words(image.mode)}. "
            "Give each pixel the number of its class: Image.fromarray(labels.astype('uint8')).save('NAME.png')"
        )
    values = np.asarray(image)
    if values.dtype.itemsize > 1 and (values.min() < 0 or values.max() > 255):
        raise UsageError(f"{path}: label values are {values.min()}..{values.max()}; they must be 0..255")
    if raw_mode in ("L;2", "L;4"):  # Pillow spreads the grey of 2 and 4 bits over 0..255
        values = values // (85 if raw_mode == "L;2" else 17)
    return values.astype(np.uint8)


def read_depth(path: str | Path | Encoded, scale: float | None = None) -> NDArray[np.float32]:
    """Depth `(H, W)` in metres from a 16-bit or floating-point picture; 0 = not measured.

    Args:
        path: PNG or TIFF of one channel.
        scale: File units in one metre: 1000 for millimetres (NYU), 256 for KITTI; none = what the file's own text says
            (predictions of ours carry `metres_per_step`), else millimetres in whole numbers, metres in floating-point
            numbers.

    Raises:
        UsageError: If the file cannot be read, has 8 bits or several channels, or says that it has another scale.
    """
    image = decode_file(_file(path), LOSSLESS_FORMATS).image
    if not image.mode.startswith("I") and image.mode != "F":
        raise UsageError(
            f"{path}: depth needs one channel of 16 bits or float; this picture has {mode_words(image.mode)}, which is "
            "depth made visible. Save what was measured, in millimetres: "
            "Image.fromarray((depth_m * 1000).round().astype('uint16')).save('NAME.png')"
        )
    own = _own_scale(image)
    if own and scale and abs(own / scale - 1) > 1e-3:
        raise UsageError(
            f"{path}: its own text says {DEPTH_SCALE_KEY}={image.info[DEPTH_SCALE_KEY]}, that is {own:g} units in one "
            f"metre, but depth_scale={scale:g} was given or belongs to the layout. Leave depth_scale out, or set it to "
            f"{own:g} if these are the files that are meant"
        )
    scale = scale or own or (1.0 if image.mode == "F" else 1000.0)
    depth_m = grey_values(image).astype(np.float32) / np.float32(scale)
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = 0
    return depth_m


def _own_scale(image: Image.Image) -> float | None:
    """Units in one metre that a depth PNG of ours names; none where there is no such number."""
    try:
        step_m = float(image.info.get(DEPTH_SCALE_KEY, 0))
    except (TypeError, ValueError):
        return None
    return 1 / step_m if 1e-9 < step_m < 1e9 else None


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> `(1, 3, H, W)` float32 in [-1, 1]."""
    return to_range(to_bytes(image))


def to_bytes(image: Image.Image) -> Tensor:
    """RGB picture -> `(1, 3, H, W)` uint8, a quarter of `to_tensor`; the channels of a pixel lie together."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def to_range(pixels: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1], as networks take it."""
    return pixels.float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """`(b, 3, H, W)` RGB in [-1, 1], what is beyond clamped and NaN made black -> `(b, H, W, 3)` uint8."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).nan_to_num().round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def pad_to_multiple(images: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad `(b, c, H, W)` right and bottom with zeros (mid-grey in [-1, 1]) to multiples, as the reference does.

    Returns:
        The padded images and the size `(H, W)` before, to crop results to.
    """
    height, width = images.shape[-2:]
    # not `-height % multiple`: torch.export cannot tell that a size of any height plus that is a multiple
    full_h, full_w = ((side + multiple - 1) // multiple * multiple for side in (height, width))
    return F.pad(images, (0, full_w - width, 0, full_h - height)), (height, width)


def resize_short(size: tuple[int, int], short: int, long_max: int) -> tuple[int, int]:
    """Size `(h, w)` of the same shape with short side `short`, or less where the long side passes `long_max`.

    Equal to mmseg's keep-ratio resize to `(long_max, short)`: halves round up.
    """
    height, width = size
    scale = min(long_max / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _file(source: str | Path | Encoded) -> Path | Encoded:
    return source if isinstance(source, Encoded) else Path(source)


def _image_of_array(pixels: NDArray[Any], stretch: bool) -> Image.Image:
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not is_image or pixels.dtype not in (np.uint8, np.uint16):
        raise UsageError(
            f"image array is {pixels.dtype} {pixels.shape}; it must be uint8 or uint16 and (H, W), (H, W, 3) "
            "or (H, W, 4). Scale floating-point images to 0..255 and call .astype(numpy.uint8) first"
        )
    check_size((pixels.shape[1], pixels.shape[0]), "image array")
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), "image array", stretch=stretch)
