"""Starts the kernels of `group_norm_kernel.py`, and tells autograd what they are; imports Triton."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
import triton
from torch import Tensor

from vpd.backbones import group_norm_kernel as kernels

_ROWS, _CHANNELS = 32, 64  # of a tile: 128 bytes of a row in bfloat16, 16 a thread
_STAGES = 3  # tiles that a loop fetches ahead
_PROGRAMS = 1024  # wanted at once: eight for each processor of a large GPU
_MOST_PARTS = 512
_MOST_STATISTICS = 4096  # that a program combines at once

Gradients = tuple[Tensor | None, ...]
P = ParamSpec("P")
T = TypeVar("T")


class Normed(NamedTuple):
    """What a norm made, and what its backward pass needs beside it."""

    maps: Tensor
    """`(b, c, h, w)`, what was normalised: the sum where something was added."""
    result: Tensor
    scale: Tensor
    """`(b, c)`, like the offset: `maps * scale + offset` is the norm."""
    offset: Tensor
    mean: Tensor
    """`(b, groups)`, of the group; like the inverse of its standard deviation."""
    inverse: Tensor


def _on_own_device(run: Callable[Concatenate[Tensor, P], T]) -> Callable[Concatenate[Tensor, P], T]:
    """Triton starts kernels on the current GPU, which need not be that of the maps."""

    @wraps(run)
    def there(maps: Tensor, *inputs: P.args, **options: P.kwargs) -> T:
        with torch.cuda.device_of(maps):
            return run(maps, *inputs, **options)

    return there


@_on_own_device
def normalise(
    maps: Tensor,
    other: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int,
    eps: float,
    silu: bool,
    dtype: torch.dtype,
    summed: Tensor | None,
) -> Normed:
    """Group norm of `maps + other + shift`, and SiLU if wanted.

    Args:
        maps: `(b, c, h, w)` in channels-last order, floating point of 16 or 32 bits.
        other: The same, of its own type.
        shift: `(b or 1, c)`.
        weight: `(c,)`.
        bias: `(c,)`.
        groups: Divides c.
        eps: Added to the variance.
        silu: Whether SiLU follows.
        dtype: Of the result; sums and products are float32.
        summed: Takes the sum, which is normalised as it is rounded there; may be `maps`. Without it there may be no
            `other`, and the sum with the shift is written nowhere.
    """
    images, channels, rows = _sizes(maps)
    parts, part_rows, blocks = _parts(images, channels, rows)
    step = _step(shift)
    means, squares = maps.new_empty(2, images, parts, channels, dtype=torch.float32)
    early, late = (shift, None) if summed is not None else (None, shift)
    kernels.part_statistics[parts * blocks, images](
        *(maps, other, early, summed, means, squares, rows, channels, part_rows, blocks, step),
        ROWS=_ROWS, CHANNELS=_CHANNELS, STAGES=_STAGES,
    )  # fmt: skip
    scale, offset = maps.new_empty(2, images, channels, dtype=torch.float32)
    mean, inverse = maps.new_empty(2, images, groups, dtype=torch.float32)
    kernels.combine[groups, images](
        *(means, squares, late, weight, bias, scale, offset, mean, inverse),
        *(rows, channels, part_rows, parts, step, eps),
        **_of_group(channels // groups, parts),
    )
    maps = maps if summed is None else summed
    result = torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last)
    kernels.apply[triton.cdiv(rows, _ROWS) * blocks, images](
        maps, scale, offset, result, rows, channels, blocks, SILU=silu, ROWS=_ROWS, CHANNELS=_CHANNELS
    )
    return Normed(maps, result, scale, offset, mean, inverse)


@_on_own_device
def add(maps: Tensor, other: Tensor | None, shift: Tensor, summed: Tensor) -> Tensor:
    """`maps + other + shift`, written to `summed`, which may be one of them; for shapes see `normalise`."""
    images, channels, rows = _sizes(maps)
    blocks = triton.cdiv(channels, _CHANNELS)
    kernels.add_maps[triton.cdiv(rows, _ROWS) * blocks, images](
        maps, other, shift, summed, rows, channels, blocks, _step(shift), ROWS=_ROWS, CHANNELS=_CHANNELS
    )
    return summed


class GroupNormSiLU(torch.autograd.Function):
    """`(maps, other, shift, weight, bias, groups, eps, silu, dtype, is_sum)` -> the normalised maps; see `normalise`.

    With `is_sum` the sum, in the type of both maps, and the normalised maps; without it there is no `other`.
    Keeps the sum, or the maps, and small tensors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        other: Tensor | None,
        shift: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        silu: bool,
        dtype: torch.dtype,
        is_sum: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Add and normalise."""
        summed = empty_sum(maps, other) if is_sum else None
        options: dict[str, Any] = {"groups": groups, "eps": eps, "silu": silu, "dtype": dtype, "summed": summed}
        normed = normalise(maps, other, shift, weight, bias, **options)
        ctx.save_for_backward(weight, shift, *(value for name, value in normed._asdict().items() if name != "result"))
        ctx.silu, ctx.is_sum, ctx.types = silu, is_sum, (maps.dtype, None if other is None else other.dtype)
        ctx.set_materialize_grads(False)
        return normed.result if summed is None else (summed, normed.result)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:
        """Gradients of both maps, which are the same, of shift, weight and bias."""
        weight, shift, maps, scale, offset, mean, inverse = ctx.saved_tensors
        of_sum, of_result = (None, *gradients)[-2:]
        wants_shift = bool(ctx.needs_input_grad[2])
        result, of_weight, of_bias, of_shift = of_sum, None, None, None
        if of_result is not None:
            statistics = (scale, offset, mean, inverse)
            late = None if ctx.is_sum else shift
            result, of_weight, of_bias, of_shift = _backward(
                *(maps, of_result, of_sum, late, weight, statistics),
                silu=ctx.silu, wants_shift=wants_shift and not ctx.is_sum,
            )  # fmt: skip
        if result is None:
            return (None,) * 10
        if wants_shift and ctx.is_sum:
            of_shift = result.sum(dim=(2, 3), dtype=torch.float32)
        if of_shift is not None:
            of_shift = of_shift.sum_to_size(shift.shape).to(shift.dtype)
        dtype, other_dtype = ctx.types
        of_other = None if other_dtype is None else result.to(other_dtype)
        return result.to(dtype), of_other, of_shift, of_weight, of_bias, None, None, None, None, None


class AddMaps(torch.autograd.Function):
    """`(maps, other, shift)` -> `maps + other + shift`, in the type of both maps; for shapes see `normalise`."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, other: Tensor | None, shift: Tensor) -> Tensor:
        """Add."""
        ctx.types = (maps.dtype, None if other is None else other.dtype)
        ctx.shift = (shift.shape, shift.dtype)
        return add(maps, other, shift, empty_sum(maps, other))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Gradients of both maps, which are the same, and of shift."""
        (dtype, other_dtype), (shape, shift_dtype) = ctx.types, ctx.shift
        of_shift = None
        if ctx.needs_input_grad[2]:
            of_shift = gradient.sum(dim=(2, 3), dtype=torch.float32).sum_to_size(shape).to(shift_dtype)
        return gradient.to(dtype), None if other_dtype is None else gradient.to(other_dtype), of_shift


def empty_sum(maps: Tensor, other: Tensor | None) -> Tensor:
    """Room for their sum."""
    dtype = maps.dtype if other is None else torch.promote_types(maps.dtype, other.dtype)
    return torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last)


@_on_own_device
def _backward(
    maps: Tensor,
    gradients: Tensor,
    others: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    statistics: tuple[Tensor, ...],
    *,
    silu: bool,
    wants_shift: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of maps (with `others`, those of its other uses), weight and bias, and of the shift by image."""
    scale, offset, mean, inverse = statistics
    gradients = gradients.contiguous(memory_format=torch.channels_last)
    others = None if others is None else others.contiguous(memory_format=torch.channels_last)
    images, channels, rows = _sizes(maps)
    parts, part_rows, blocks = _parts(images, channels, rows)
    by_part = maps.new_empty(2 + wants_shift, images, parts, channels, dtype=torch.float32)
    sums, products, values_sums = (*by_part, None)[:3]
    sizes: dict[str, Any] = {"SILU": silu, "ROWS": _ROWS, "CHANNELS": _CHANNELS}
    kernels.part_gradients[parts * blocks, images](
        *(maps, gradients, scale, offset, sums, products, values_sums, rows, channels, part_rows, blocks),
        **sizes, STAGES=_STAGES,
    )  # fmt: skip
    by_image = maps.new_empty(4 + wants_shift, images, channels, dtype=torch.float32)
    of_weight, of_bias, of_value, of_one, of_shift = (*by_image, None)[:5]
    groups = mean.shape[1]
    kernels.combine_gradients[groups, images](
        *(sums, products, values_sums, shift, weight, mean, inverse, of_value, of_one, of_weight, of_bias, of_shift),
        *(rows, channels, parts, _step(shift)),
        **_of_group(channels // groups, parts),
    )
    result = torch.empty_like(maps, memory_format=torch.channels_last)
    kernels.apply_gradients[triton.cdiv(rows, _ROWS) * blocks, images](
        maps, gradients, others, scale, offset, of_value, of_one, result, rows, channels, blocks, **sizes
    )
    of_weight, of_bias = by_image[:2].sum(dim=1).to(weight.dtype)
    return result, of_weight, of_bias, of_shift


def _sizes(maps: Tensor) -> tuple[int, int, int]:
    images, channels, height, width = maps.shape
    return images, channels, height * width


def _step(shift: Tensor | None) -> int:
    """Numbers from one image's shift to the next one's."""
    return 0 if shift is None or shift.shape[0] == 1 else shift.shape[1]


def _of_group(size: int, parts: int) -> dict[str, int]:
    """Sizes of the tiles in which a group's channels and parts are combined."""
    parts = triton.next_power_of_2(parts)
    return {"SIZE": size, "PARTS": parts, "CHANNELS": min(triton.next_power_of_2(size), _MOST_STATISTICS // parts)}


def _parts(images: int, channels: int, rows: int) -> tuple[int, int, int]:
    """Parts that the rows are cut into, rows of a part, and blocks of channels: enough programs for one small image."""
    blocks = triton.cdiv(channels, _CHANNELS)
    wanted = min(triton.cdiv(_PROGRAMS, images * blocks), triton.cdiv(rows, _ROWS), _MOST_PARTS)
    part_rows = triton.cdiv(triton.cdiv(rows, wanted), _ROWS) * _ROWS
    return triton.cdiv(rows, part_rows), part_rows, blocks
