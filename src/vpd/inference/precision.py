"""What works on a device but not as well as on others: types without kernels, Apple GPUs."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)
_SLOW = 3.0
_TRIAL = (1, 64, 16, 16)
"""Of a convolution: large enough for its kernel to count, a few milliseconds without one."""

APPLE = (
    "Apple GPU (mps): models run the plain way, which this project has not tried on one: float32 (--fast too; other "
    "types on request), and none of CUDA's graphs, group norm kernel and pinned memory. Where torch lacks an operator, "
    "PYTORCH_ENABLE_MPS_FALLBACK=1 lets the CPU compute it."
)
"""What a model lacks there."""


@lru_cache
def note_plain_device(device_type: str) -> None:
    """Say, once in a process, what a device lacks that others have: an Apple GPU, as `device.type` names it."""
    if device_type == "mps":
        logger.info(APPLE)


@lru_cache
def warn_of_slow(device: torch.device, dtype: torch.dtype) -> None:
    """Say, once in a process, that a half type is slow on a CPU without kernels for it, and by how much, measured."""
    if device.type != "cpu" or torch.finfo(dtype).bits > 16:
        return
    factor = _seconds(dtype) / _seconds(torch.float32)
    if factor > _SLOW:
        logger.warning(
            "This processor has no kernels for %s: a convolution takes %.0f times as long as in float32. Use float32.",
            str(dtype).removeprefix("torch."),
            factor,
        )


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    """Of a small convolution; the best of a few, as the first makes ready and others may be disturbed."""
    hidden, kernel = torch.zeros(_TRIAL, dtype=dtype), torch.zeros(_TRIAL[1], _TRIAL[1], 3, 3, dtype=dtype)
    took = []
    for _ in range(4):
        began = time.perf_counter()
        F.conv2d(hidden, kernel, padding=1)
        took.append(time.perf_counter() - began)
    return min(took)
