"""A thousand predictions take no more memory than the first ones."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import CLASSES
from vpd import SegmentationModel
from vpd.config import Resize
from vpd.inference.heap import free_heap, return_heap
from vpd.training.auto_accumulate import restart_peak


def tensors() -> tuple[int, int]:
    """How many tensors there are, and their bytes."""
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)  # not the kinds without data, which other tests may have left
    found = [value for value in gc.get_objects() if type(value) in kinds]
    return len(found), sum(value.nbytes for value in found)


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.extras)])
def test_memory_is_flat(tiny_diffusion: Path, number: int) -> None:
    """Mixed sizes, alone and in batches, with and without a budget: no tensor is left, the process does not grow."""
    torch.manual_seed(0)
    fit = Resize(size_px=64, max_long_px=256)
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=fit, head_channels=8).eval()
    draw, pixels = random.Random(0), np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    sizes = [(draw.randint(20, 400), draw.randint(20, 400)) for _ in range(12)]
    warm, held, resident = max(24, number // 5), (0, 0), 0
    return_heap()
    try:
        for done in range(number):
            if done == warm:
                held, resident = tensors(), restart_peak() or 0
            height, width = sizes[done % len(sizes)]
            image = np.ascontiguousarray(pixels[:height, :width])
            model.predict([image] * (1 + done % 2), batch_size=2, memory="1GB" if done % 3 else None)
        assert tensors() == held
        grown = (restart_peak() or 0) - resident
        assert grown < 8 * 2**20
    finally:
        free_heap()
