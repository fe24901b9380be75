"""LoRA on the UNet: what trains, what it does to the outputs, and the way into plain weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vpd
from tiny import CLASSES, TEXT_DIM
from vpd import SegmentationModel, StableDiffusionBackbone, UsageError
from vpd.config import Checkpointing, LoraSettings, Resize

pytest.importorskip("peft")
LORA = LoraSettings(rank=2, alpha=4)


@pytest.fixture
def backbone(tiny_diffusion: Path) -> StableDiffusionBackbone:
    torch.manual_seed(0)
    return StableDiffusionBackbone.from_pretrained(tiny_diffusion)


def learn(backbone: StableDiffusionBackbone) -> None:
    """Give every addition something to say."""
    torch.manual_seed(1)
    for name, parameter in backbone.unet.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)


def outputs(backbone: StableDiffusionBackbone) -> list[Tensor]:
    torch.manual_seed(2)
    # at least two positions in the middle block: with one key, no gradient but rounding reaches queries and keys
    features = backbone(torch.rand(1, 3, 128, 64) * 2 - 1, torch.randn(1, 3, TEXT_DIM))
    return [*features.maps, *features.attention.values()]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def test_additions_are_nothing_at_first_and_scale_with_alpha(backbone: StableDiffusionBackbone) -> None:
    before = outputs(backbone)
    backbone.add_lora(LORA)
    assert backbone.config.lora == LORA
    assert largest_difference(outputs(backbone), before) == 0
    learn(backbone)
    assert largest_difference(outputs(backbone), before) > 1e-3
    layer = backbone.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    tokens = torch.randn(5, TEXT_DIM)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert down.shape[0] == 2
    torch.testing.assert_close(layer(tokens), layer.base_layer(tokens) + 4 / 2 * tokens @ down.T @ up.T)


@pytest.mark.parametrize("detach_maps", [False, True])
@pytest.mark.parametrize("gradient_checkpointing", [False, True, "cheap"])
def test_gradients_reach_the_additions_and_nothing_else(
    backbone: StableDiffusionBackbone, gradient_checkpointing: Checkpointing, detach_maps: bool
) -> None:
    backbone.add_lora(LORA)
    learn(backbone)
    backbone.gradient_checkpointing = gradient_checkpointing
    backbone.config = backbone.config.model_copy(update={"detach_maps": detach_maps})
    sum(output.square().mean() for output in outputs(backbone)).backward()
    reached = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert reached == {name for name in dict(backbone.named_parameters()) if ".lora_A." in name or ".lora_B." in name}
    attentions = [name for name, _ in backbone.unet.named_modules() if name.endswith((".attn1", ".attn2"))]
    assert len(reached) == 2 * 4 * len(attentions)  # two weights beside each of four projections
    assert all(parameter.grad.abs().max() > 0 for parameter in backbone.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("checkpointing", [True, "cheap"])
@pytest.mark.parametrize("detach_maps", [False, True])
def test_gradient_checkpointing_changes_no_gradient(
    backbone: StableDiffusionBackbone, detach_maps: bool, checkpointing: Checkpointing
) -> None:
    backbone.add_lora(LoraSettings(rank=2, dropout=0.3))
    backbone.train()
    learn(backbone)
    backbone.config = backbone.config.model_copy(update={"detach_maps": detach_maps})
    gradients = []
    for backbone.gradient_checkpointing in (False, checkpointing):
        backbone.zero_grad()
        sum(output.square().mean() for output in outputs(backbone)).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_merged_layers_are_plain_weights(backbone: StableDiffusionBackbone) -> None:
    plain = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.add_lora(LORA)
    learn(backbone)
    before = outputs(backbone)
    backbone.merge_lora()
    assert backbone.config.lora is None
    assert largest_difference(outputs(backbone), before) < 1e-5
    merged = backbone.state_dict()
    assert merged.keys() == plain.keys()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    projections = (".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")
    assert changed == {name for name in plain if name.startswith("unet.") and name.endswith(projections)}
    assert all(parameter.requires_grad for parameter in backbone.unet.parameters())
    assert not hasattr(backbone.unet, "peft_config")
    backbone.merge_lora()  # nothing more to do


def test_model_with_layers_reads_back_bit_equal(tiny_diffusion: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=Resize(size_px=64), head_channels=8)
    model.add_lora(LORA)
    learn(model.backbone)
    model.save(tmp_path)
    read = vpd.load(tmp_path, device="cpu")
    assert read.config == model.config and read.config.backbone.lora == LORA == read.backbone.config.lora
    written = model.state_dict()
    assert read.state_dict().keys() == written.keys()
    assert all(torch.equal(value, written[name]) for name, value in read.state_dict().items())
    for name, parameter in read.backbone.named_parameters():
        assert parameter.requires_grad == (".lora_A." in name or ".lora_B." in name)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(read.eval()(image), model.eval()(image))
    read.merge_lora()
    assert read.config.backbone.lora is None
    read.save(tmp_path)
    assert vpd.load(tmp_path, device="cpu").config.backbone.lora is None


def test_missing_peft_is_named(backbone: StableDiffusionBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"LoRA needs PEFT .*pip install 'vpd-perception\[lora\]'"):
        backbone.add_lora(LORA)
    assert backbone.config.lora is None
