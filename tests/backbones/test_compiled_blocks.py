"""Blocks of the UNet compiled once a kind: few codes, the same numbers and gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tiny import tiny_unet, tiny_vae
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Checkpointing


def tiny_backbone() -> StableDiffusionBackbone:
    torch.manual_seed(0)
    return StableDiffusionBackbone(unet=tiny_unet(), vae=tiny_vae())


@pytest.fixture
def counter() -> Iterator[CompileCounterWithBackend]:
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


def gradients(backbone: StableDiffusionBackbone, side: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, side, side, generator=draw) * 2 - 1
    features = backbone(images, torch.randn(1, 3, backbone.text_dim, generator=draw))
    backbone.zero_grad()
    sum(maps.square().mean() for maps in (*features.maps, *features.attention.values())).backward()
    return {name: part.grad.clone() for name, part in backbone.unet.named_parameters() if part.grad is not None}


@pytest.mark.extras
@pytest.mark.parametrize("checkpointing", [False, True, "cheap"])
def test_blocks_are_compiled_once_a_kind(counter: CompileCounterWithBackend, checkpointing: Checkpointing) -> None:
    backbone = tiny_backbone().train()
    wanted = gradients(backbone, 64)
    backbone.gradient_checkpointing = checkpointing
    backbone.compile_blocks(backend=counter)
    found = gradients(backbone, 64)
    blocks = [module for module in backbone.unet.modules() if hasattr(module, "time_emb_proj") or hasattr(module, "ff")]
    assert 8 < counter.frame_count < len(blocks)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max())), name
    before = counter.frame_count
    gradients(backbone, 64)
    assert counter.frame_count == before


def test_copies_compile_for_themselves() -> None:
    backbone = tiny_backbone()
    backbone.compile_blocks(backend="eager")
    twin = copy.deepcopy(backbone)
    assert twin._blocks is not backbone._blocks
    assert twin._blocks is not None and twin._blocks._options == {"backend": "eager"}
