"""From an image of any size to the size that a network sees, and its outputs back, strip by strip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vpd.config import Resize
from vpd.files.images import resize_short, to_tensor

STRIP_PIXELS = 2**19
"""Pixels of the image that are brought to full size at a time: 150 classes of them take 315 MB."""


def fitted_size(fit: Resize, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
    """Height and width an image is resized to; the aspect ratio is kept unless the model squashes.

    Args:
        fit: The model's.
        height: Rows of the image.
        width: Its columns.
        scale: One of `fit.scales`, by which every size of the fit is multiplied.
    """
    if fit.mode == "native":
        return _times(height, scale), _times(width, scale)
    size_px = _times(fit.size_px, scale)
    if fit.mode == "squash":
        return size_px, size_px
    return resize_short((height, width), size_px, max(_times(fit.max_long_px, scale), size_px))


def _times(length_px: int, scale: float) -> int:
    return max(1, int(length_px * scale + 0.5))


def fit_picture(picture: Image.Image, fit: Resize, scale: float = 1.0) -> Image.Image:
    """The RGB picture at the model's scale, or `scale` times that; itself where that is its size."""
    height, width = fitted_size(fit, picture.height, picture.width, scale)
    if (height, width) == (picture.height, picture.width):
        return picture
    if fit.antialias:
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return Image.fromarray(pixels.round_()[0].byte().permute(1, 2, 0).numpy())


def fit_image(picture: Image.Image, fit: Resize, scale: float = 1.0) -> Tensor:
    """RGB picture -> `(1, 3, h, w)` in [-1, 1], float32, at the model's scale, or `scale` times that."""
    return to_tensor(fit_picture(picture, fit, scale))


@dataclass(frozen=True)
class Fitted:
    """A picture that was read and fitted before it is predicted, by whatever thread; `predict` takes it as an image."""

    image: Image.Image
    """RGB, upright, at its own size."""
    fit: Resize
    """How it was fitted."""
    at_scales: tuple[Image.Image, ...]
    """RGB, at each of the fit's scales."""

    @classmethod
    def of(cls, picture: Image.Image, fit: Resize) -> Fitted:
        """An RGB picture, fitted."""
        return cls(picture, fit, tuple(fit_picture(picture, fit, scale) for scale in fit.scales))

    @property
    def pixels(self) -> int:
        """Of all of it, each of which takes 3 bytes."""
        return sum(image.width * image.height for image in (self.image, *self.at_scales))


def most_rows(width: int) -> int:
    """Rows of a strip of `STRIP_PIXELS`."""
    return max(1, STRIP_PIXELS // width)


def resize_stream(
    strips: Iterable[Tensor], source_height: int, height: int, width: int, *, rows: int = 0
) -> Iterator[Tensor]:
    """Bilinear resizing of outputs that come as strips; no more of them is kept than the next rows need.

    Args:
        strips: `(c, rows, w)`, from top to bottom; each may be overwritten when the next is asked for.
        source_height: Rows of all of them.
        height: Rows wanted.
        width: Columns wanted.
        rows: Rows of what is yielded; 0 = as many as make `STRIP_PIXELS`.

    Yields:
        `(c, rows, width)`, the same numbers whatever the strips are; concatenated along the rows they equal
        `F.interpolate` with align_corners=False. Each may be overwritten when the next is asked for.
    """
    rows = rows or most_rows(width)
    source = iter(strips)
    held, passed = next(source), 0  # rows of the source, and how many came before them
    for first in range(0, height, rows):
        last = min(first + rows, height)
        position, above, below = _rows_between(first, last, source_height, height)
        if skipped := min(int(above[0]) - passed, held.shape[-2]):
            held, passed = held[:, skipped:], passed + skipped
        while passed + held.shape[-2] <= int(below[-1]):
            held = torch.cat([held.clone(), next(source)], dim=1)  # cloned before it is overwritten
        if source_height == height:
            strip = held[:, first - passed : last - passed]
        else:
            if held.device.type != "cpu":  # made there: a copy would wait for what the device still has to do
                position, above, below = _rows_between(first, last, source_height, height, device=held.device)
            weight = (position - above).to(held.dtype)[:, None]
            upper, lower = held[:, above - passed], held[:, below - passed]
            strip = upper * (1 - weight) + lower * weight
            del upper, lower
        if strip.shape[-1] == width:
            yield strip
        else:
            yield F.interpolate(strip[None], size=(last - first, width), mode="bilinear", align_corners=False)[0]


def _rows_between(
    first: int, last: int, source_height: int, height: int, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the rows from `first` to `last` of `height` lie in the source, and the rows above and below each."""
    wanted = torch.arange(first, last, device=device)
    position = ((wanted + 0.5) * (source_height / height) - 0.5).clamp(min=0)
    above = position.long().clamp(max=source_height - 1)
    return position, above, (above + 1).clamp(max=source_height - 1)


def mean_of_streams(streams: Sequence[tuple[Iterator[Tensor], bool]]) -> Iterator[Tensor]:
    """Strips averaged over variants of a picture, one variant's strip at a time.

    Args:
        streams: For each variant its strips `(c, rows, W)`, as many and as large as those of the others and nobody
            else's, and whether they are of the mirrored picture; these are mirrored back.
    """
    (first, is_mirrored), *others = streams
    for strip in first:
        total = strip.flip(-1) if is_mirrored else strip
        for stream, other_is_mirrored in others:
            other = next(stream)
            total.add_(other.flip(-1) if other_is_mirrored else other)
            del other
        yield total.div_(len(streams)) if others else total
