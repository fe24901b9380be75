"""Group norm and SiLU of channels-last maps as Triton kernels, forward and backward.

torch's own kernel on GPUs takes and gives NCHW, so that in a network whose convolutions want channels-last every norm
costs two copies of its map. These read a map twice and write it once. `group_norm.py` says when they are used; imports
Triton, which torch's CUDA builds bring.

A map `(b, c, h, w)` in channels-last order is a matrix of `rows` = h*w positions by c channels for each image. Programs
take a tile of it; statistics of parts of the rows are combined as in Chan et al. 1979, from values shifted by the
part's first row, so that a large mean costs no digits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _CHANNELS = 32, 64  # of a tile
_PROGRAMS = 512  # wanted at once: four for each processor of a large GPU
_MOST_PARTS = 128


@triton.jit
def _part_statistics(maps, means, squares, rows, channels, part_rows, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean of each channel over a part of the rows, and sum of squared differences from it: `(b, parts, c)`."""
    image, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    first, end = part * part_rows, tl.minimum((part + 1) * part_rows, rows)
    base = maps + image.to(tl.int64) * rows * channels
    shift = tl.load(base + first.to(tl.int64) * channels + channel, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([CHANNELS], dtype=tl.float32)
    total_square = tl.zeros([CHANNELS], dtype=tl.float32)
    for start in range(first, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * channels + channel[None, :]
        values = tl.load(base + place, mask=mask, other=0.0).to(tl.float32)
        values = tl.where(mask, values - shift[None, :], 0.0)
        total += tl.sum(values, axis=0)
        total_square += tl.sum(values * values, axis=0)
    count = (end - first).to(tl.float32)
    out = (image * tl.num_programs(1) + part) * channels + channel
    tl.store(means + out, shift + total / count, mask=inside)
    tl.store(squares + out, total_square - total * total / count, mask=inside)


@triton.jit
def _combine(
    means, squares, weight, bias, scale, offset, mean_of, inverse_of,
    rows, channels, part_rows, parts, eps, SIZE: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Statistics of a group of SIZE channels, and what they make of each channel: `value * scale + offset`."""
    image, group = tl.program_id(0), tl.program_id(1)
    part = tl.arange(0, PARTS)
    count = tl.where(part < parts, tl.minimum(rows - part * part_rows, part_rows), 0).to(tl.float32)
    base = image * parts * channels + part[:, None] * channels + group * SIZE
    total = 0.0
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        mask = (part < parts)[:, None] & (place < SIZE)[None, :]
        total += tl.sum(tl.load(means + base + place[None, :], mask=mask, other=0.0) * count[:, None])
    number = tl.cast(rows, tl.float32) * SIZE
    mean = total / number
    square = 0.0
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        mask = (part < parts)[:, None] & (place < SIZE)[None, :]
        away = tl.load(means + base + place[None, :], mask=mask, other=0.0) - mean
        inner = tl.load(squares + base + place[None, :], mask=mask, other=0.0)
        square += tl.sum(tl.where(mask, inner + count[:, None] * away * away, 0.0))
    inverse = 1.0 / tl.sqrt(square / number + eps)
    groups = tl.num_programs(1)
    tl.store(mean_of + image * groups + group, mean)
    tl.store(inverse_of + image * groups + group, inverse)
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        channel = group * SIZE + place
        scaled = tl.load(weight + channel, mask=place < SIZE, other=0.0).to(tl.float32) * inverse
        moved = tl.load(bias + channel, mask=place < SIZE, other=0.0).to(tl.float32) - mean * scaled
        tl.store(scale + image * channels + channel, scaled, mask=place < SIZE)
        tl.store(offset + image * channels + channel, moved, mask=place < SIZE)


@triton.jit
def _apply(maps, scale, offset, result, rows, channels, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """`maps * scale + offset`, with SiLU if wanted."""
    image, tile, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel, row = block * CHANNELS + tl.arange(0, CHANNELS), tile * ROWS + tl.arange(0, ROWS)
    inside = channel < channels
    mask = (row < rows)[:, None] & inside[None, :]
    place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
    scaled = tl.load(scale + image * channels + channel, mask=inside, other=0.0)
    moved = tl.load(offset + image * channels + channel, mask=inside, other=0.0)
    values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32) * scaled[None, :] + moved[None, :]
    if SILU:
        values = values * tl.sigmoid(values)
    tl.store(result + place, values.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _before_silu(gradient, values, scaled, moved, SILU: tl.constexpr):
    """Gradient of what SiLU takes, from that of what it gives."""
    if SILU:
        normed = values * scaled[None, :] + moved[None, :]
        share = tl.sigmoid(normed)
        gradient = gradient * share * (1.0 + normed * (1.0 - share))
    return gradient


@triton.jit
def _part_gradients(
    maps, gradients, scale, offset, sums, products,
    rows, channels, part_rows, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient of the norm, and of it times the map, over a part of the rows: `(b, parts, c)`."""
    image, part, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    scaled = tl.load(scale + image * channels + channel, mask=inside, other=0.0)
    moved = tl.load(offset + image * channels + channel, mask=inside, other=0.0)
    first, end = part * part_rows, tl.minimum((part + 1) * part_rows, rows)
    total = tl.zeros([CHANNELS], dtype=tl.float32)
    total_product = tl.zeros([CHANNELS], dtype=tl.float32)
    for start in range(first, end, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
        values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(gradients + place, mask=mask, other=0.0).to(tl.float32)
        gradient = _before_silu(gradient, values, scaled, moved, SILU)
        total += tl.sum(gradient, axis=0)
        total_product += tl.sum(gradient * values, axis=0)
    out = (image * tl.num_programs(1) + part) * channels + channel
    tl.store(sums + out, total, mask=inside)
    tl.store(products + out, total_product, mask=inside)


@triton.jit
def _apply_gradients(
    maps, gradients, scale, offset, of_value, of_one, result,
    rows, channels, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of the map: `gradient * scale + maps * of_value + of_one`, the last two from the groups' sums."""
    image, tile, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel, row = block * CHANNELS + tl.arange(0, CHANNELS), tile * ROWS + tl.arange(0, ROWS)
    inside = channel < channels
    mask = (row < rows)[:, None] & inside[None, :]
    place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
    at = image * channels + channel
    scaled, moved = tl.load(scale + at, mask=inside, other=0.0), tl.load(offset + at, mask=inside, other=0.0)
    by_value, by_one = tl.load(of_value + at, mask=inside, other=0.0), tl.load(of_one + at, mask=inside, other=0.0)
    values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32)
    gradient = tl.load(gradients + place, mask=mask, other=0.0).to(tl.float32)
    gradient = _before_silu(gradient, values, scaled, moved, SILU)
    found = gradient * scaled[None, :] + values * by_value[None, :] + by_one[None, :]
    tl.store(result + place, found.to(result.dtype.element_ty), mask=mask)


class GroupNormSiLU(torch.autograd.Function):
    """`(maps, weight, bias, groups, eps, silu, dtype)` -> the normalised maps; keeps the maps and small tensors.

    Args of `apply`:
        maps: `(b, c, h, w)` in channels-last order, floating point of 16 or 32 bits.
        weight, bias: `(c,)`.
        groups: Divides c.
        eps: Added to the variance.
        silu: Whether SiLU follows.
        dtype: Of what is returned; sums and products are float32.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, dtype: torch.dtype
    ) -> Tensor:
        """Normalise."""
        images, channels, rows = maps.shape[0], maps.shape[1], maps.shape[2] * maps.shape[3]
        parts, part_rows, blocks = _parts(images, channels, rows)
        small: dict[str, Any] = {"dtype": torch.float32, "device": maps.device}
        means, squares = torch.empty(2, images, parts, channels, **small)
        grid = (images, parts, blocks)
        _part_statistics[grid](maps, means, squares, rows, channels, part_rows, ROWS=_ROWS, CHANNELS=_CHANNELS)
        scale, offset = torch.empty(2, images, channels, **small)
        mean, inverse = torch.empty(2, images, groups, **small)
        size, parts_power = channels // groups, triton.next_power_of_2(parts)
        _combine[images, groups](
            *(means, squares, weight, bias, scale, offset, mean, inverse, rows, channels, part_rows, parts, eps),
            SIZE=size, PARTS=parts_power, CHANNELS=min(triton.next_power_of_2(size), _CHANNELS),
        )  # fmt: skip
        result = torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last)
        tiles = (images, triton.cdiv(rows, _ROWS), blocks)
        _apply[tiles](maps, scale, offset, result, rows, channels, SILU=silu, ROWS=_ROWS, CHANNELS=_CHANNELS)
        ctx.save_for_backward(maps, weight, scale, offset, mean, inverse)
        ctx.silu = silu
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of maps, weight and bias."""
        maps, weight, scale, offset, mean, inverse = ctx.saved_tensors
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        (images, groups), channels, rows = mean.shape, maps.shape[1], maps.shape[2] * maps.shape[3]
        parts, part_rows, blocks = _parts(images, channels, rows)
        sums, products = torch.empty(2, images, parts, channels, dtype=torch.float32, device=maps.device)
        sizes: dict[str, Any] = {"SILU": ctx.silu, "ROWS": _ROWS, "CHANNELS": _CHANNELS}
        grid = (images, parts, blocks)
        _part_gradients[grid](maps, gradients, scale, offset, sums, products, rows, channels, part_rows, **sizes)
        total, product = (part.sum(dim=1).view(images, groups, -1) for part in (sums, products))
        mean, inverse = mean[..., None], inverse[..., None]
        product = (product - mean * total) * inverse  # with the normalised map
        weighted = weight.float().view(groups, -1)
        number = rows * weighted.shape[1]
        mean_gradient = (weighted * total).sum(dim=2, keepdim=True) / number
        slope = (weighted * product).sum(dim=2, keepdim=True) / number * inverse * inverse
        of_value, of_one = (
            part.expand_as(total).contiguous() for part in (-slope, slope * mean - mean_gradient * inverse)
        )
        result = torch.empty_like(maps, memory_format=torch.channels_last)
        tiles = (images, triton.cdiv(rows, _ROWS), blocks)
        _apply_gradients[tiles](maps, gradients, scale, offset, of_value, of_one, result, rows, channels, **sizes)
        of_weight, of_bias = (part.sum(dim=0).flatten().to(weight.dtype) for part in (product, total))
        return result, of_weight, of_bias, None, None, None, None


def _parts(images: int, channels: int, rows: int) -> tuple[int, int, int]:
    """Parts that the rows are cut into, rows of a part, and blocks of channels: enough programs for one small image."""
    blocks = triton.cdiv(channels, _CHANNELS)
    wanted = min(triton.cdiv(_PROGRAMS, images * blocks), triton.cdiv(rows, _ROWS), _MOST_PARTS)
    part_rows = triton.cdiv(triton.cdiv(rows, wanted), _ROWS) * _ROWS
    return triton.cdiv(rows, part_rows), part_rows, blocks
