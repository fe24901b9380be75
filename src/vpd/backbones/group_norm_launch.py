"""Starts the kernels of `group_norm_kernel.py`; imports Triton."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import triton
from torch import Tensor

from vpd.backbones import group_norm_kernel as kernels
from vpd.backbones.group_norm_autograd import Normed

_ROWS, _CHANNELS = 32, 64  # of a tile: 128 bytes of a row in bfloat16, 16 a thread
_STAGES = 3  # tiles that a loop fetches ahead
_PROGRAMS = 1024  # wanted at once: eight for each processor of a large GPU
_MOST_PARTS = 512
_MOST_STATISTICS = 4096  # that a program combines at once

P = ParamSpec("P")
T = TypeVar("T")


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


@_on_own_device
def backward(
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
