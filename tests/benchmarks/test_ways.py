"""`compare_ways.py`: all ways give the same features, and do the operations that are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compare_ways import draw
from random_models import SIZES, random_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from way import WAYS, Way, check_names
from way_costs import count_gflop, feature_errors, peak_mib
from ways import find_ways

from tiny import CLASSES, tiny_unet, tiny_vae
from vpd import SegmentationModel, StableDiffusionBackbone, UsageError
from vpd.config import Resize, SegmentConfig

EXACT = ("reference", "diffusers", "exact", "fast-float32")


def make_model(**unet: Any) -> SegmentationModel:
    torch.manual_seed(0)
    backbone = StableDiffusionBackbone(unet=tiny_unet(**unet), vae=tiny_vae())
    config = SegmentConfig(backbone=backbone.config, classes=CLASSES, fit=Resize(), head_channels=8)
    return SegmentationModel(config, backbone=backbone).eval()


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return make_model()


def ways_of(model: SegmentationModel, *names: str) -> list[Way]:
    found, skipped = find_ways(model, names, Path())
    assert not skipped
    return found


def errors_of(way: Way, model: SegmentationModel, **sizes: int) -> list[float]:
    images, text = draw(model, **sizes)
    (first,) = ways_of(model, "reference")
    with torch.no_grad():
        wanted = first.features(first.encode(images), first.prepare(text))
    return feature_errors(way, images, text, wanted)


@pytest.mark.parametrize("prompts", [1, 5])
@pytest.mark.parametrize("name", EXACT[1:])
def test_exact_ways(model: SegmentationModel, name: str, prompts: int) -> None:
    found = errors_of(ways_of(model, name)[0], model, px=64, prompts=prompts, batch=2)
    assert len(found) == 6
    assert max(found) < 1e-5


def test_linear_projections() -> None:
    """As Stable Diffusion 2.x has them."""
    model = make_model(use_linear_projection=True)
    for way in ways_of(model, *EXACT[1:]):
        assert max(errors_of(way, model, px=64, prompts=5)) < 1e-5


def test_fast(model: SegmentationModel) -> None:
    (fast,) = ways_of(model, "fast+heap")
    assert fast.keeps_heap
    assert max(errors_of(fast, model, px=64, prompts=5)) < 4e-2


@torch.no_grad()
def test_small_encoder(model: SegmentationModel) -> None:
    """Its operations are its own, and its features nobody's: no error is told."""
    (way,) = ways_of(model, "small-encoder")
    assert way.has_random_weights
    images, text = draw(model, px=64, prompts=5)
    maps = way.features(way.encode(images.to(way.dtype)), way.prepare(text))
    assert maps[0].shape[-2:] == (8, 8)
    counted = count_gflop(model, ["small-encoder", "fast"], px=64, prompts=5)
    assert counted["small-encoder"]["unet"] == counted["fast"]["unet"]
    blocks = [(64, 3, 0), (32, 9, 1), (16, 9, 1), (8, 9, 1)]  # side, 3x3 convolutions 64 -> 64 of blocks and strides
    products = sum(side**2 * 9 * 64 * 64 * (inner + down) for side, inner, down in blocks)
    products += 64**2 * 9 * 3 * 64 + 8**2 * 9 * 64 * 4
    assert counted["small-encoder"]["encoder"] == pytest.approx(2 * products / 1e9)


@pytest.mark.extras
def test_exported(model: SegmentationModel, tmp_path: Path) -> None:
    ways, skipped = find_ways(model, ["exported"], tmp_path)
    assert not skipped
    for prompts, batch in ((5, 2), (1, 1)):
        assert max(errors_of(ways[0], model, px=64, prompts=prompts, batch=batch)) < 1e-5


@torch.no_grad()
def test_operations_are_those_that_are_done(model: SegmentationModel) -> None:
    """What the meta device counts is what a true pass does."""
    counted = count_gflop(model, [*EXACT, "exported", "fast+heap"], px=64, prompts=5)
    images, text = draw(model, px=64, prompts=5)
    for way in ways_of(model, *EXACT):
        prepared = way.prepare(text)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            way.features(way.encode(images), prepared)
        assert sum(counted[way.name].values()) == pytest.approx(counter.get_total_flops() / 1e9)
    assert counted["exported"] == counted["exact"]
    assert counted["fast+heap"] == counted["fast-float32"]
    assert sum(counted["fast-float32"].values()) < sum(counted["exact"].values())  # texts are read once


def test_memory(model: SegmentationModel) -> None:
    images, text = draw(model, px=128, prompts=5)
    reference, exact = (peak_mib(way, images, text) for way in ways_of(model, "reference", "exact"))
    assert set(exact) == {"encoder", "unet"}
    assert exact["unet"] < reference["unet"] / 2


def test_the_models_unet_stays_as_it_is(model: SegmentationModel) -> None:
    (way,) = ways_of(model, "diffusers")
    errors_of(way, model, px=64, prompts=5)
    unet = model.backbone.unet
    assert unet.conv_out is None
    assert not any(module._forward_hooks for module in unet.modules())
    assert not any(type(processor).__name__ == "_CollectingProcessor" for processor in unet.attn_processors.values())


def test_what_is_not_there_is_left_out(model: SegmentationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ways.find_spec", lambda package: None)
    ways, skipped = find_ways(model, ["exact", "exported"], Path())
    assert [way.name for way in ways] == ["exact"]
    assert "onnxruntime not installed" in skipped["exported"]


def test_names() -> None:
    check_names([*WAYS, "fast+heap"])
    for names, said in ((["fastest"], "Unknown way 'fastest'"), ([], "none or stand twice"), (["exact"] * 2, "twice")):
        with pytest.raises(UsageError, match=said):
            check_names(names)


def test_random_models() -> None:
    model = random_model("tiny", 3)
    assert not model.training and len(model.config.classes) == 3
    assert set(SIZES) == {"tiny", "sd15"}
    with pytest.raises(UsageError, match="Unknown size 'huge'. Choose one of: tiny, sd15"):
        random_model("huge")
