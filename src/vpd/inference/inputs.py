"""What `predict` takes from Python: pictures in many forms, words, numbers; what is none of them is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError, first_line
from vpd.files.decoding import Encoded
from vpd.files.images import read_image
from vpd.inference.resize import Fitted

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor | bytes | bytearray | memoryview | BinaryIO
"""A path; a PIL image; an array `(H, W)`, `(H, W, 3)` or `(H, W, 4)`, or a tensor `(3, H, W)` on any device, both of
uint8, uint16 or floats in [0, 1]; the bytes of an image file, or such a file opened for reading them."""

_TAKEN = (
    "a path, a PIL image, an array (H, W, 3) or tensor (3, H, W) of uint8, uint16 or floats in [0, 1], the bytes of an "
    "image file, a file opened with 'rb', or a list of these"
)
_MOST_BYTES = 2**30
"""Of a file that was opened: more than the largest image takes that is decoded."""
_SLACK = 1e-4
"""By which resizing in floats may leave the range."""


def list_sources(images: Any) -> tuple[list[Any], bool]:
    """The images as a list, and whether they came as several.

    Args:
        images: An image; or several: a sequence, a generator, a batch `(n, H, W, 3)` as array or `(n, 3, H, W)` as
            tensor.

    Raises:
        UsageError: If it is neither.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        return (list(images), True) if images.ndim == 4 else ([images], False)
    if _is_single(images):
        return [images], False
    if isinstance(images, (Sequence, Iterator)):
        return list(images), True
    raise UsageError(f"An image is {_TAKEN}; got {_kind(images)}.")


def source_name(source: Any, number: int, total: int) -> str:
    """What messages call an image: its path or file name where it has one, else its place in the list."""
    name = os.fsdecode(source) if isinstance(source, os.PathLike) else source
    if not isinstance(name, str):
        name = getattr(source, "filename", "") or getattr(source, "name", "")
    return name if isinstance(name, str) and name else f"image {number + 1} of {total}" if total > 1 else "the image"


def read_source(source: Any, name: str) -> Image.Image:
    """RGB picture of one image, as `read_image` makes it; floats are rounded to 8 bits.

    Args:
        source: Any `ImageSource`.
        name: What messages call it.

    Raises:
        UsageError: If it is something else, cannot be read, or has values outside the range.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(os.fsdecode(source))
    if isinstance(source, Encoded):
        return read_image(source)
    if isinstance(source, Fitted):
        return source.image
    if isinstance(source, Tensor):
        source = _array_of_tensor(source, name)
    if isinstance(source, np.ndarray):
        return read_image(_pixels(source, name))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return read_image(Encoded(bytes(source), name))
    if not isinstance(source, Image.Image) and callable(getattr(source, "read", None)):
        return read_image(Encoded(_content(source, name), name))
    if not isinstance(source, Image.Image):
        raise UsageError(f"{name}: an image is {_TAKEN}; got {_kind(source)}.")
    try:
        return read_image(source)
    except UsageError:
        raise
    except Exception as error:  # of a file that is closed, or as its decoder fails
        raise UsageError(f"{name}: this PIL image cannot be read ({first_line(error)})") from error


def may_be_read_together(sources: Iterable[Any]) -> bool:
    """Whether threads may read these at once: not files that are open, nor PIL images, which may stand for such."""
    return all(isinstance(source, (str, os.PathLike, np.ndarray, Tensor, Encoded, bytes)) for source in sources)


def one_each(given: Any, number: int, word: str, *, may_be_none: bool = False) -> list[Any]:
    """A word of the task for each image.

    Args:
        given: One text, for all images; or a list with one for each.
        number: How many images there are.
        word: What it is called in `predict`, singular.
        may_be_none: Whether an image may have none.

    Raises:
        UsageError: If it is something else, or the list has another length.
    """
    if isinstance(given, str) or (given is None and may_be_none):
        return [given] * number
    if not isinstance(given, Iterable) or isinstance(given, (bytes, bytearray, Mapping, Set, Tensor)):
        raise UsageError(f"{word}={given!r}: give one text, or a list with one for each image; got {_kind(given)}.")
    texts = list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str) and not (text is None and may_be_none):
            raise UsageError(f"{word}: number {place + 1} of {len(texts)} is {_kind(text)}; each must be a text.")
    if len(texts) != number:
        noun = "expressions" if word == "text" else f"{word}s"
        raise UsageError(f"There are {number} images but {len(texts)} {noun}; give one, or one each.")
    return texts


def whole_number(given: Any, name: str, *, most: int | None = None, meaning: str = "") -> int:
    """A count that a user gave.

    Raises:
        UsageError: If it is no whole number, below 1 or above `most`.
    """
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1 or (most and given > most):
        limits = f"1 to {most}" if most else "1 or more"
        is_huge = isinstance(given, int) and given.bit_length() > 64  # Python writes no number of any length
        told = "..." if is_huge else repr(given)[:60]
        raise UsageError(f"{name}={told}: give a whole number{meaning}, {limits}.")
    return int(given)


def true_or_false(given: Any, name: str) -> bool:
    """A switch that a user gave.

    Raises:
        UsageError: If it is neither true nor false.
    """
    if not isinstance(given, (bool, np.bool_)):
        raise UsageError(f"{name}={given!r}: give True or False.")
    return bool(given)


def _is_single(source: Any) -> bool:
    kinds = (str, os.PathLike, Image.Image, Encoded, Fitted, bytes, bytearray, memoryview)
    return isinstance(source, kinds) or callable(getattr(source, "read", None))


def _kind(source: Any) -> str:
    """What something is, in words of Python."""
    return (
        "None" if source is None else f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    )


def _content(file: Any, name: str) -> bytes:
    """What an open file still holds."""
    try:
        content = file.read(_MOST_BYTES + 1)
    except Exception as error:  # closed, open for writing, a connection that broke
        raise UsageError(
            f"{name}: this file cannot be read ({first_line(error)}). Open it with open(path, 'rb')."
        ) from error
    if not isinstance(content, (bytes, bytearray)):
        raise UsageError(f"{name}: this file gives {_kind(content)} instead of bytes. Open it with open(path, 'rb').")
    if not content:
        raise UsageError(f"{name}: this file has nothing left to read; file.seek(0) goes back to its start.")
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{name}: this file is longer than {_MOST_BYTES // 2**20} MiB.")
    return bytes(content)


def _array_of_tensor(image: Tensor, name: str) -> NDArray[Any]:
    """`(H, W, c)` or `(H, W)`."""
    form = f"{name}: this tensor is {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
    if image.ndim != 2 and (image.ndim != 3 or image.shape[0] not in (1, 3, 4)):
        is_last = image.ndim == 3 and image.shape[-1] in (1, 3, 4)
        remedy = "; its channels come last: give image.permute(2, 0, 1)" if is_last else ""
        raise UsageError(f"{form}; an image is (3, H, W) and a batch (n, 3, H, W){remedy}.")
    try:
        values = image.detach().cpu()
        array: NDArray[Any] = (values.float() if values.is_floating_point() else values).numpy()
    except Exception as error:  # sparse, quantised, without data
        raise UsageError(f"{form}, whose values cannot be read ({first_line(error)}).") from error
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def _pixels(image: NDArray[Any], name: str) -> NDArray[Any]:
    """The array as uint8 or uint16, in a form that `read_image` takes."""
    form = f"{name}: this array is {image.dtype} {image.shape}"
    if image.ndim != 2 and (image.ndim != 3 or image.shape[-1] not in (1, 3, 4)):
        is_first = image.ndim == 3 and image.shape[0] in (1, 3, 4)
        remedy = "; its channels come first: give numpy.moveaxis(image, 0, -1)" if is_first else ""
        raise UsageError(f"{form}; an image is (H, W), (H, W, 3) or (H, W, 4){remedy}.")
    if not image.size:
        raise UsageError(f"{form}: it has no pixels.")
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if image.dtype.kind == "f":
        return _rounded(image, form)
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        raise UsageError(
            f"{form}; values must be uint8 (0..255), uint16 (0..65535) or floats in [0, 1]. Where they are 0..255, "
            "convert them to uint8."
        )
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def _rounded(image: NDArray[np.floating[Any]], form: str) -> NDArray[np.uint8]:
    """Floats in [0, 1] as uint8."""
    low, high = float(image.min()), float(image.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN is neither
        told = f"{form} with values from {low:g} to {high:g}; floats must be in [0, 1], none NaN."
        if low >= 0 and high <= 255:
            told += " Divide by 255 first, or convert to uint8."
        elif low >= -1 and high <= 1:
            told += " Give (image + 1) / 2."
        raise UsageError(told)
    return np.rint(image.clip(0, 1) * 255.0).astype(np.uint8)
