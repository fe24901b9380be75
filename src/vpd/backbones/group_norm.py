"""Group norm of feature maps, with the SiLU that mostly follows, in the way that suits device and memory order."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.backbones.recomputed import recomputed
from vpd.errors import first_line

logger = logging.getLogger(__name__)

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def group_norm(norm: nn.GroupNorm, maps: Tensor, *, silu: bool = False) -> Tensor:
    """`norm(maps)`, `(b, c, h, w)`, then SiLU if wanted; of the two only what goes in is kept for the backward pass.

    On a GPU, maps in channels-last order go through a Triton kernel, equal but for rounding and without the copies to
    NCHW and back that torch's own needs; under autocast it returns autocast's type. All others get torch's bits.
    """
    if has_kernel(maps):
        from vpd.backbones.group_norm_kernel import GroupNormSiLU  # imports Triton

        device = maps.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else maps.dtype
        result: Tensor = GroupNormSiLU.apply(maps, norm.weight, norm.bias, norm.num_groups, norm.eps, silu, dtype)
        return result
    if not silu:
        return norm(maps)
    if not torch.is_grad_enabled():
        return F.silu(norm(maps), inplace=True)

    def run(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.group_norm(maps, norm.num_groups, weight, bias, norm.eps))

    return recomputed(run, maps, norm.weight, norm.bias)


def has_kernel(maps: Tensor) -> bool:
    """Whether maps go through the kernel: channels-last, on a GPU that Triton is there for, and not being compiled."""
    if torch.compiler.is_compiling() or maps.dim() != 4 or maps.dtype not in _TYPES:
        return False
    return _is_here(maps.device.type) and maps.is_contiguous(memory_format=torch.channels_last)


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
        from vpd.backbones.group_norm_kernel import GroupNormSiLU

        maps = torch.zeros(1, 32, 2, 2, device=device).contiguous(memory_format=torch.channels_last)
        GroupNormSiLU.apply(maps, maps[0, :, 0, 0], maps[0, :, 0, 0], 32, 1e-5, True, torch.float32)
    except Exception as error:  # compilers and drivers fail in their own ways; torch's kernels always work
        return f"Triton cannot be used here: {first_line(error)}"
    return ""
