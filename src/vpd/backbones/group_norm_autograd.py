"""What autograd is told of a group norm with the addition before it and SiLU after it, whoever computes them.

`kernels` is a module with `normalise`, `add` and `backward`: `group_norm_launch.py`, which starts Triton's kernels, or
`without_data.py`, which only makes room for their results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


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


class GroupNormSiLU(torch.autograd.Function):
    """`(kernels, maps, other, shift, weight, bias, groups, eps, silu, dtype, is_sum)` -> the normalised maps.

    What they mean stands at `group_norm_launch.normalise`. With `is_sum` the sum, in the type of both maps, and the
    normalised maps; without it there is no `other`. Keeps the sum, or the maps, and small tensors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Any,
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
        normed = kernels.normalise(maps, other, shift, weight, bias, **options)
        ctx.save_for_backward(weight, shift, *(value for name, value in normed._asdict().items() if name != "result"))
        ctx.kernels, ctx.silu, ctx.is_sum = kernels, silu, is_sum
        ctx.types = (maps.dtype, None if other is None else other.dtype)
        ctx.set_materialize_grads(False)
        return normed.result if summed is None else (summed, normed.result)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:
        """Gradients of both maps, which are the same, of shift, weight and bias."""
        weight, shift, maps, scale, offset, mean, inverse = ctx.saved_tensors
        of_sum, of_result = (None, *gradients)[-2:]
        wants_shift = bool(ctx.needs_input_grad[3])
        result, of_weight, of_bias, of_shift = of_sum, None, None, None
        if of_result is not None:
            statistics = (scale, offset, mean, inverse)
            late = None if ctx.is_sum else shift
            result, of_weight, of_bias, of_shift = ctx.kernels.backward(
                *(maps, of_result, of_sum, late, weight, statistics),
                silu=ctx.silu, wants_shift=wants_shift and not ctx.is_sum,
            )  # fmt: skip
        if result is None:
            return (None,) * 11
        if wants_shift and ctx.is_sum:
            of_shift = result.sum(dim=(2, 3), dtype=torch.float32)
        if of_shift is not None:
            of_shift = of_shift.sum_to_size(shift.shape).to(shift.dtype)
        dtype, other_dtype = ctx.types
        of_other = None if other_dtype is None else result.to(other_dtype)
        return None, result.to(dtype), of_other, of_shift, of_weight, of_bias, None, None, None, None, None


class AddMaps(torch.autograd.Function):
    """`(kernels, maps, other, shift)` -> `maps + other + shift`, in the type of both maps."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, maps: Tensor, other: Tensor | None, shift: Tensor) -> Tensor:
        """Add."""
        ctx.types = (maps.dtype, None if other is None else other.dtype)
        ctx.shift = (shift.shape, shift.dtype)
        total: Tensor = kernels.add(maps, other, shift, empty_sum(maps, other))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Gradients of both maps, which are the same, and of shift."""
        (dtype, other_dtype), (shape, shift_dtype) = ctx.types, ctx.shift
        of_shift = None
        if ctx.needs_input_grad[3]:
            of_shift = gradient.sum(dim=(2, 3), dtype=torch.float32).sum_to_size(shape).to(shift_dtype)
        return None, gradient.to(dtype), None if other_dtype is None else gradient.to(other_dtype), of_shift


def empty_sum(maps: Tensor, other: Tensor | None) -> Tensor:
    """Room for their sum."""
    dtype = maps.dtype if other is None else torch.promote_types(maps.dtype, other.dtype)
    return torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last)
