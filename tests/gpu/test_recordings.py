"""CUDA graphs replay what the eager network computes, for whichever pictures come."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vpd.optimising import optimise
from vpd.tasks.model import PerceptionModel


@pytest.mark.parametrize("name", ["segment", "refer", "depth"])
@torch.no_grad()
def test_replayed_outputs_are_the_eager_ones(
    name: str, load: Callable[..., PerceptionModel], device: torch.device
) -> None:
    """Shapes come again and in turn; earlier outputs stay what they were; nothing is recorded without a GPU."""
    model = load(name)
    eager, recorded = optimise(model, graphs=False), optimise(model)
    assert eager.graphs is None and (recorded.graphs is not None) == (device.type == "cuda")
    kept = []
    for number, side in enumerate((64, 64, 96, 64, 96, 96, 64)):
        generator = torch.Generator().manual_seed(number)
        images = (torch.rand(2, 3, side, 64, generator=generator) * 2 - 1).to(device, eager.dtype)
        text = None if model.constant_prompts() is not None else model.example_prompts(2).to(images)
        kept.append((recorded.network(images, text), eager(images, text)))
    assert recorded.graphs is None or recorded.graphs.held_bytes > 0  # it was not refused
    for one, other in kept:
        assert (one - other).abs().max() <= 1e-2 * other.abs().max()
