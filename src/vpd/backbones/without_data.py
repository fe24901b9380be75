"""Tensors without data that stand for those of a GPU with all its kernels, to count what a GPU takes on any machine.

What `group_norm_launch.py` starts with data, the same names here only make room for: the same large tensors, and keep
the same ones for the backward pass. Neither Triton nor a GPU is needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

Gradients = tuple[Tensor | None, ...]


class GpuWithoutData(FakeTensorMode):
    """Within it tensors have shapes and no data.

    They are of the CPU, which any build of torch knows, but take the way of a GPU where the two differ in what they
    keep: channels-last maps through the kernel of group norm.
    """


class Normed(NamedTuple):
    """What a norm made."""

    maps: Tensor
    """`(b, c, h, w)`, what was normalised."""
    result: Tensor


def normalise(
    maps: Tensor, *_small: Tensor | None, dtype: torch.dtype, summed: Tensor | None, **_options: Any
) -> Normed:
    """Room for the result."""
    maps = maps if summed is None else summed
    return Normed(maps, torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last))


def add(maps: Tensor, other: Tensor | None, shift: Tensor, summed: Tensor) -> Tensor:
    """The room for the sum."""
    return summed


def empty_sum(maps: Tensor, other: Tensor | None) -> Tensor:
    """Room for their sum."""
    dtype = maps.dtype if other is None else torch.promote_types(maps.dtype, other.dtype)
    return torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last)


class GroupNormSiLU(torch.autograd.Function):
    """`(maps, other, shift, weight, bias, groups, eps, silu, dtype, is_sum)` -> room for sum, if wanted, and norm."""

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
        """Keeps the sum, or the maps."""
        summed = empty_sum(maps, other) if is_sum else None
        normed = normalise(maps, dtype=dtype, summed=summed)
        ctx.save_for_backward(weight, bias, shift, normed.maps)
        ctx.types = (maps.dtype, None if other is None else other.dtype)
        ctx.set_materialize_grads(False)
        return normed.result if summed is None else (summed, normed.result)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:
        """Gradients of both maps, which are the same, of shift, weight and bias."""
        weight, bias, shift, maps = ctx.saved_tensors
        of_sum, of_result = (None, *gradients)[-2:]
        result, of_weight, of_bias = of_sum, None, None
        if of_result is not None:
            of_result = of_result.contiguous(memory_format=torch.channels_last)
            result = torch.empty_like(maps, memory_format=torch.channels_last)
            of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        if result is None:
            return (None,) * 10
        dtype, other_dtype = ctx.types
        of_shift = torch.empty_like(shift) if ctx.needs_input_grad[2] else None
        of_other = None if other_dtype is None else result.to(other_dtype)
        return result.to(dtype), of_other, of_shift, of_weight, of_bias, None, None, None, None, None


class AddMaps(torch.autograd.Function):
    """`(maps, other, shift)` -> room for the sum, in the type of both maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, other: Tensor | None, shift: Tensor) -> Tensor:
        """Keeps the shift, which is small."""
        ctx.save_for_backward(shift)
        ctx.types = (maps.dtype, None if other is None else other.dtype)
        return empty_sum(maps, other)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Gradients of both maps, which are the same, and of shift."""
        dtype, other_dtype = ctx.types
        of_shift = torch.empty_like(ctx.saved_tensors[0]) if ctx.needs_input_grad[2] else None
        return gradient.to(dtype), None if other_dtype is None else gradient.to(other_dtype), of_shift
