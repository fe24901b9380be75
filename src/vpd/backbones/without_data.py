"""Tensors without data that stand for those of a GPU with all its kernels, to count what a GPU takes on any machine.

What `group_norm_launch.py` starts, the same names here only make room for. Neither Triton nor a GPU is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vpd.backbones.group_norm_autograd import Normed


class GpuWithoutData(FakeTensorMode):
    """Within it tensors have shapes and no data.

    They are of the CPU, which any build of torch knows, but take the way of a GPU where the two differ in what they
    keep: channels-last maps through the kernel of group norm.
    """


def normalise(
    maps: Tensor, *_small: Tensor | None, groups: int, dtype: torch.dtype, summed: Tensor | None, **_options: Any
) -> Normed:
    """Room for the result and what is kept of the statistics."""
    maps = maps if summed is None else summed
    result = torch.empty_like(maps, dtype=dtype, memory_format=torch.channels_last)
    scale, offset = maps.new_empty(2, *maps.shape[:2], dtype=torch.float32)
    mean, inverse = maps.new_empty(2, len(maps), groups, dtype=torch.float32)
    return Normed(maps, result, scale, offset, mean, inverse)


def add(maps: Tensor, other: Tensor | None, shift: Tensor, summed: Tensor) -> Tensor:
    """The room for the sum."""
    return summed


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
    """Room for the gradients of maps, weight and bias, and of the shift by image."""
    gradients = gradients.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(maps, memory_format=torch.channels_last)
    of_shift = maps.new_empty(maps.shape[:2], dtype=torch.float32) if wants_shift else None
    return result, torch.empty_like(weight), torch.empty_like(weight), of_shift
