"""From an image of any size to network inputs and back: fitting, sliding windows, resizing by strips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vpd.config import Fit
from vpd.files.images import resize_short, to_tensor

Forward = Callable[[Tensor], Tensor]
"""Images `(b, 3, h, w)` -> outputs `(b, c, h, w)`."""

Group = list[tuple[int, Image.Image, Tensor]]
"""Number, picture and fitted pixels `(1, 3, h, w)` of images that go through the network together."""

STRIP_PIXELS = 2**19
"""Pixels of the image that are brought to full size at a time: 150 classes of them take 315 MB."""


def fitted_size(fit: Fit, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
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


def fit_picture(picture: Image.Image, fit: Fit, scale: float = 1.0) -> Image.Image:
    """The RGB picture at the model's scale, or `scale` times that; itself where that is its size."""
    height, width = fitted_size(fit, picture.height, picture.width, scale)
    if (height, width) == (picture.height, picture.width):
        return picture
    if fit.antialias:
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return Image.fromarray(pixels.round_()[0].byte().permute(1, 2, 0).numpy())


def fit_image(picture: Image.Image, fit: Fit, scale: float = 1.0) -> Tensor:
    """RGB picture -> `(1, 3, h, w)` in [-1, 1], float32, at the model's scale, or `scale` times that."""
    return to_tensor(fit_picture(picture, fit, scale))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of windows along one axis; the last window is moved back to end at the border."""
    if length <= window:
        return [0]
    return [min(start, length - window) for start in range(0, length - window + stride, stride)]


def slide(forward: Forward, images: Tensor, fit: Fit) -> Iterator[Tensor]:
    """Outputs of sliding windows, averaged where they overlap, as strips of finished rows from top to bottom.

    Args:
        forward: The network.
        images: `(b, 3, h, w)`.
        fit: Window and stride; without a window the whole image is one strip.

    Yields:
        `(b, c, rows, w)`; concatenated along the rows they are `(b, c, h, w)`. No more than one row of
        windows is held at a time.
    """
    height, width = images.shape[-2:]
    if fit.window_px is None or fit.stride_px is None:
        yield forward(images)
        return
    window_h, window_w = min(fit.window_px, height), min(fit.window_px, width)
    tops = window_starts(height, fit.window_px, fit.stride_px)
    lefts = window_starts(width, fit.window_px, fit.stride_px)
    total, coverage = images.new_zeros(()), images.new_zeros(())
    for top, next_top in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            output = forward(images[..., top : top + window_h, left : left + window_w])
            if not total.ndim:
                total = output.new_zeros((*output.shape[:2], window_h, width))
                coverage = output.new_zeros((window_h, width))
            total[..., left : left + window_w] += output
            coverage[..., left : left + window_w] += 1
        done = min(next_top - top, window_h)
        yield total[..., :done, :] / coverage[:done]
        for sums in (total, coverage):  # in place: with many classes this is the largest thing in memory
            kept = sums[..., done:, :].clone()
            sums.zero_()
            sums[..., : kept.shape[-2], :] = kept


def resize_strips(outputs: Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Bilinear resizing to `(height, width)`, `STRIP_PIXELS` at a time.

    Args:
        outputs: `(c, h, w)`.
        height: Rows wanted.
        width: Columns wanted.

    Yields:
        `(c, rows, width)`; concatenated along the rows they equal `F.interpolate` with align_corners=False.
    """
    yield from resize_stream([outputs], outputs.shape[-2], height, width, rows=most_rows(width))


def most_rows(width: int) -> int:
    """Rows of a strip of `STRIP_PIXELS`."""
    return max(1, STRIP_PIXELS // width)


def resize_stream(
    strips: Iterable[Tensor], source_height: int, height: int, width: int, *, rows: int
) -> Iterator[Tensor]:
    """The same for outputs that come as strips: no more of them is kept than the next rows need.

    Args:
        strips: `(c, rows, w)`, from top to bottom; each may be overwritten when the next is asked for.
        source_height: Rows of all of them.
        height: Rows wanted.
        width: Columns wanted.
        rows: Rows of what is yielded.

    Yields:
        `(c, rows, width)`, the same numbers whatever the strips are.
    """
    source = iter(strips)
    held, passed = next(source), 0  # rows of the source, and how many came before them
    for first in range(0, height, rows):
        wanted = torch.arange(first, min(first + rows, height))
        position = ((wanted + 0.5) * (source_height / height) - 0.5).clamp(min=0)
        above = position.long().clamp(max=source_height - 1)
        below = (above + 1).clamp(max=source_height - 1)
        if skipped := min(int(above[0]) - passed, held.shape[-2]):
            held, passed = held[:, skipped:], passed + skipped
        while passed + held.shape[-2] <= int(below[-1]):
            held = torch.cat([held.clone(), next(source)], dim=1)  # cloned before it is overwritten
        weight = (position - above).to(device=held.device, dtype=held.dtype)[:, None]
        upper, lower = (held[:, (index - passed).to(held.device)] for index in (above, below))
        strip = upper * (1 - weight) + lower * weight
        if strip.shape[-1] == width:
            yield strip
        else:
            yield F.interpolate(strip[None], size=(len(wanted), width), mode="bilinear", align_corners=False)[0]


def variants_of(group: Group, fit: Fit) -> Iterator[tuple[Tensor, bool]]:
    """The pixels of a group at each scale, as they are and, where `fit.flip`, mirrored."""
    for scale in fit.scales:
        pixels = torch.cat([pixels if scale == 1 else fit_image(picture, fit, scale) for _, picture, pixels in group])
        yield pixels, False
        if fit.flip:
            yield pixels.flip(-1), True


def mean_probabilities(variants: list[tuple[Tensor, bool]], height: int, width: int) -> Iterator[Tensor]:
    """Strips of class probabilities `(n, rows, width)`, averaged over augmented variants.

    As in the reference, each variant's logits are resized first, then turned into probabilities and averaged.

    Args:
        variants: Logits `(n, h, w)` and whether they are of the mirrored picture.
        height: Rows wanted.
        width: Columns wanted.
    """
    strips = [(resize_strips(logits, height, width), flipped) for logits, flipped in variants]
    yield from mean_of_streams(strips, height)


def mean_of_streams(streams: list[tuple[Iterator[Tensor], bool]], height: int) -> Iterator[Tensor]:
    """The same of logits that come as strips of equal rows, until there are `height` rows."""
    done = 0
    while done < height:  # one variant's strip at a time, of which 150 classes take 315 MB
        mean = mean_of_variants(((next(parts), flipped) for parts, flipped in streams), dim=0)
        done += mean.shape[-2]
        yield mean


def accumulated_probabilities(variants: Iterable[tuple[Tensor, bool]], height: int, width: int) -> Tensor:
    """Class probabilities `(n, height, width)`: the same average, with one variant in memory at a time.

    For variants of several scales, of which the logits take more memory than the probabilities of the picture.
    """
    total, number = torch.zeros(()), 0
    for logits, flipped in variants:
        if not number:
            total = logits.new_zeros((len(logits), height, width))
        first = 0
        for strip in mean_probabilities([(logits, flipped)], height, width):
            total[:, first : first + strip.shape[1]] += strip
            first += strip.shape[1]
        number += 1
        del logits, strip  # before the next ones are made
    return total.div_(number)


def mean_of_variants(variants: Iterable[tuple[Tensor, bool]], *, dim: int) -> Tensor:
    """Class probabilities along `dim`, averaged over variants; those of mirrored pictures are mirrored back."""
    total, number = torch.zeros(()), 0
    for logits, flipped in variants:
        probs = logits.softmax(dim=dim)
        probs = probs.flip(-1) if flipped else probs
        total = total.add_(probs) if number else probs
        number += 1
    return total.div_(number)
