"""What is made again in the backward pass: the same bits, as diffusers' own layers have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tiny import TEXT_DIM, tiny_unet, tiny_vae
from vpd import StableDiffusionBackbone
from vpd.backbones import unet_layers
from vpd.backbones.group_norm import Sum
from vpd.backbones.recomputed import recomputed
from vpd.config import Checkpointing


def gradients(backbone: StableDiffusionBackbone, *, use_bf16: bool) -> dict[str, Tensor]:
    """Of a sum over all features and maps, by parameter; with those of latents and text."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 16, generator=generator, requires_grad=True)
    text = torch.randn(2, 5, TEXT_DIM, generator=generator, requires_grad=True)
    backbone.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
        features = backbone(None, text, latents=latents)
        total = sum(part.float().square().mean() for part in (*features.maps, *features.attention.values()))
    total.backward()
    found = {name: value.grad for name, value in backbone.named_parameters() if value.grad is not None}
    return {name: value.clone() for name, value in found.items()} | {"latents": latents.grad, "text": text.grad}


@pytest.mark.parametrize("checkpointing", [False, True, "cheap"])
@pytest.mark.parametrize("use_bf16", [False, True])
def test_gradients_are_those_of_diffusers_own_layers(
    use_bf16: bool, checkpointing: Checkpointing, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    backbone = StableDiffusionBackbone(unet=tiny_unet(), vae=tiny_vae(), gradient_checkpointing=checkpointing)
    backbone.unet.conv_in.requires_grad_(False)
    got = gradients(backbone, use_bf16=use_bf16)
    theirs = "vpd.backbones.unet_walk.residual_block"
    monkeypatch.setattr(theirs, lambda resnet, hidden, time: Sum(resnet(hidden, time)))
    monkeypatch.setattr(unet_layers, "_feed_forward", lambda layers, tokens: layers(tokens))
    wanted = gradients(backbone, use_bf16=use_bf16)
    assert got.keys() == wanted.keys() and len(got) > 300
    assert not [name for name in got if not torch.equal(got[name], wanted[name])]


def test_only_what_goes_in_is_kept() -> None:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def run(one: Tensor, other: Tensor) -> Tensor:
        return (one.sin().exp() * other).tanh()

    one, other = torch.randn(3, requires_grad=True), torch.randn(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result: Any = recomputed(run, one, other)
    assert [tensor.data_ptr() for tensor in kept] == [one.data_ptr(), other.data_ptr()]
    (got,) = torch.autograd.grad(result.sum(), one)
    (wanted,) = torch.autograd.grad(run(one, other).sum(), one)
    assert torch.equal(got, wanted)
