"""Group norm of feature maps, with the addition before it and the SiLU that mostly follows, as suits the device."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from vpd.backbones import without_data
from vpd.backbones.group_norm_autograd import AddMaps, GroupNormSiLU, empty_sum
from vpd.backbones.recomputed import recomputed
from vpd.errors import first_line

logger = logging.getLogger(__name__)

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


class Sum:
    """Maps `(b, c, h, w)` that are yet to be added, as the group norm that comes next may do it on its way.

    Args:
        fresh: Maps that nothing else uses: without gradient the sum is written over them.
        other: Maps to be added to them.
        shift: `(b or 1, c)`, to be added to every position.
    """

    def __init__(self, fresh: Tensor, other: Tensor | None = None, shift: Tensor | None = None) -> None:
        self._parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = [(fresh, other, shift)]

    def take(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The three, once: whoever adds them has them alone, so that no memory is held for longer than it must be."""
        return self._parts.pop()


def group_norm(norm: nn.GroupNorm, maps: Tensor, *, silu: bool = False, shift: Tensor | None = None) -> Tensor:
    """`norm(maps)`, `(b, c, h, w)`, then SiLU if wanted; of the two only what goes in is kept for the backward pass.

    On a GPU, maps in channels-last order go through a Triton kernel, equal but for rounding and without the copies to
    NCHW and back that torch's own needs; under autocast it returns autocast's type. All others get torch's bits.

    Args:
        norm: Holds the weights.
        maps: Channels of any number that the norm's groups divide.
        silu: Whether SiLU follows.
        shift: `(b or 1, c)`, added to every position first; without gradient perhaps to `maps` themselves.
    """
    if has_kernel(maps):
        return _by_kernel(norm, maps, None, shift, silu=silu, is_sum=False)[1]
    if shift is not None:
        maps = add(maps, shift[:, :, None, None])
    if not silu:
        return norm(maps)
    if not torch.is_grad_enabled():
        return F.silu(norm(maps), inplace=True)

    def run(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.group_norm(maps, norm.num_groups, weight, bias, norm.eps))

    return recomputed(run, maps, norm.weight, norm.bias)


def sum_and_norm(norm: nn.GroupNorm, maps: Tensor | Sum, *, silu: bool = False) -> tuple[Tensor, Tensor]:
    """The sum, and `group_norm` of it: in one pass less on a GPU, else one after the other."""
    fresh, other, shift = (maps if isinstance(maps, Sum) else Sum(maps)).take()
    is_sum = other is not None or shift is not None
    if is_sum and has_kernel(fresh) and (other is None or has_kernel(other)):
        return _by_kernel(norm, fresh, other, shift, silu=silu, is_sum=True)
    total = added(Sum(fresh, other, shift))
    del fresh, other
    return total, group_norm(norm, total, silu=silu)


def added(maps: Tensor | Sum) -> Tensor:
    """The sum."""
    fresh, other, shift = (maps if isinstance(maps, Sum) else Sum(maps)).take()
    if shift is None:
        return fresh if other is None else add(fresh, other)
    if not has_kernel(fresh) or not (other is None or has_kernel(other)):
        fresh = add(fresh, shift[:, :, None, None])
        return fresh if other is None else add(fresh, other)
    kernels = _kernels_for(fresh)
    if torch.is_grad_enabled():
        result: Tensor = AddMaps.apply(kernels, fresh, other, shift)
        return result
    summed: Tensor = kernels.add(fresh, other, shift, _room(fresh, other))
    return summed


def add(fresh: Tensor, other: Tensor) -> Tensor:
    """Their sum; without gradient into `fresh`, which nothing else may use. Autocast may make them of two types."""
    if torch.is_grad_enabled() or fresh.dtype != other.dtype or torch.compiler.is_compiling():
        return fresh + other
    return torch.add(other, fresh, out=fresh)  # in bfloat16 on CPUs half the time of fresh.add_(other)


def has_kernel(maps: Tensor) -> bool:
    """Whether maps go through the kernel: channels-last, on a GPU that Triton is there for, and not being compiled."""
    if torch.compiler.is_compiling() or maps.dim() != 4 or maps.dtype not in _TYPES:
        return False
    if not maps.is_contiguous(memory_format=torch.channels_last) or not maps.numel():
        return False
    if isinstance(maps, FakeTensor):
        if isinstance(maps.fake_mode, without_data.GpuWithoutData):
            return True
        with unset_fake_temporarily():  # it is tried with data
            return _is_here(maps.device.type)
    return _is_here(maps.device.type)


def _by_kernel(
    norm: nn.GroupNorm, fresh: Tensor, other: Tensor | None, shift: Tensor | None, *, silu: bool, is_sum: bool
) -> tuple[Tensor, Tensor]:
    """Sum, or if it is not wanted the maps as they are, and norm."""
    kernels = _kernels_for(fresh)
    device = fresh.device.type
    own = fresh.dtype if other is None else torch.promote_types(fresh.dtype, other.dtype)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own
    if torch.is_grad_enabled():
        found = GroupNormSiLU.apply(
            kernels, fresh, other, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, silu, dtype, is_sum
        )
        return found if is_sum else (fresh, found)
    summed = _room(fresh, other) if is_sum else None
    options: dict[str, Any] = {"groups": norm.num_groups, "eps": norm.eps, "silu": silu, "dtype": dtype}
    normed = kernels.normalise(fresh, other, shift, norm.weight, norm.bias, **options, summed=summed)
    return normed.maps, normed.result


def _room(fresh: Tensor, other: Tensor | None) -> Tensor:
    """Where a sum without gradient goes: over the fresh maps, unless it is of a wider type."""
    if other is None or torch.promote_types(fresh.dtype, other.dtype) == fresh.dtype:
        return fresh
    return empty_sum(fresh, other)


def _kernels_for(maps: Tensor) -> Any:
    """What starts the kernels; for tensors without data what takes as much memory and starts nothing."""
    if isinstance(maps, FakeTensor):
        return without_data
    from vpd.backbones import group_norm_launch  # imports Triton

    return group_norm_launch


@cache
def _is_here(device: str) -> bool:
    """Whether Triton is there and works; where it does not work it is said, once."""
    if find_spec("triton") is None or not _runs_on(device):
        return False
    if reason := why_no_kernel(device):
        logger.warning("%s, so group norms take torch's slower way.", reason)
    return not reason


def _runs_on(device: str) -> bool:
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # runs on a CPU, slowly: for tests
    return device == ("cpu" if is_interpreted else "cuda")


def why_no_kernel(device: str) -> str:
    """Why maps on a kind of device go through no kernel, by trying it; empty if they do.

    Triton wants a C compiler when it first runs, which some machines lack.
    """
    if not _runs_on(device):
        return f"There are no Triton kernels for {device}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from vpd.backbones import group_norm_launch

        maps = torch.zeros(1, 32, 2, 2, device=device).contiguous(memory_format=torch.channels_last)
        channels = maps[0, :, 0, 0]
        for other, shift in ((None, None), (maps, channels[None])):
            options = (32, 1e-5, True, torch.float32, other is not None)
            GroupNormSiLU.apply(group_norm_launch, maps, other, shift, channels, channels, *options)
    except Exception as error:  # compilers and drivers fail in their own ways; torch's kernels always work
        return f"Triton cannot be used here: {first_line(error)}"
    return ""
