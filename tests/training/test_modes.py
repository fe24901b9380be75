"""The four modes: what changes, what stays, what is saved, and that a resumed run does the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import vpd
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Checkpointing, Resize
from vpd.errors import UsageError
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import Batch
from vpd.training.optimisers import freeze_parts
from vpd.training.run import train
from vpd.training.settings import resolve_config
from weights import assert_equal_weights, weights

LORA = {"mode": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.1}}
PARTS = {"full": ("unet", "adapter", "head"), "lora": ("lora", "adapter", "head"), "frozen": ("adapter", "head")}
PARTS["head"] = ("head",)


def part_of(name: str) -> str:
    if ".lora_" in name:
        return "lora"
    return next((part for part in ("unet", "vae", "adapter", "head") if f"{part}." in name), "other")


def quick(settings: dict[str, Any]) -> dict[str, Any]:
    """Nothing but training."""
    return settings | {"data": settings["data"] | {"validation_split": None}, "pictures": 0, "trackers": []}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, session_settings: dict[str, Any]) -> dict[str, Path]:
    """A finished run of four steps in each mode, with a checkpoint after every second, and where they all began."""
    folder = tmp_path_factory.mktemp("modes")
    settings = quick(session_settings) | {"keep": 9}
    for mode, changes in {"full": {}, "frozen": {"mode": "frozen"}, "head": {"mode": "head"}, "lora": LORA}.items():
        train("segment", folder / mode, settings, changes)
    train("segment", folder / "start", settings, {"mode": "head", "steps": 1, "learning_rate": 1e-30})
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("mode", PARTS)
def test_exactly_the_parts_of_the_mode_change(mode: str, runs: dict[str, Path]) -> None:
    start, end = weights(runs["start"] / "model"), weights(runs[mode] / "model")
    assert start.keys() == end.keys()
    changed = {part_of(name) for name in start if not torch.equal(start[name], end[name])}
    assert changed == {"unet" if part == "lora" else part for part in PARTS[mode]}
    assert any("running_mean" in name and not torch.equal(start[name], end[name]) for name in start)


@pytest.mark.parametrize("mode", PARTS)
def test_only_what_trains_has_optimiser_state(mode: str, runs: dict[str, Path]) -> None:
    state = load_file(runs[mode] / "checkpoints" / "step-00000004" / "optimiser.safetensors")
    assert {part_of(name) for name in state} == set(PARTS[mode])


@pytest.mark.parametrize("mode", ["lora", "frozen"])
def test_resumed_run_ends_in_the_same_weights(mode: str, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[mode], folder)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    train("segment", folder, resume=True)
    assert_equal_weights(runs[mode] / "model", folder / "model")
    last = Path("checkpoints", "step-00000004")
    assert_equal_weights(runs[mode] / last, folder / last)


def test_checkpoint_keeps_lora_apart_and_the_finished_model_has_it_merged(runs: dict[str, Path]) -> None:
    checkpoint = vpd.load(runs["lora"] / "checkpoints" / "step-00000004", device="cpu")
    finished = vpd.load(runs["lora"] / "model", device="cpu")
    assert checkpoint.config.backbone.lora.rank == 2 and finished.config.backbone.lora is None
    assert not [name for name in finished.state_dict() if "lora_" in name or "base_layer" in name]
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(finished(images), checkpoint(images), atol=1e-5, rtol=0)


def test_lora_goes_on_from_a_checkpoint_with_lora(
    runs: dict[str, Path], session_settings: dict[str, Any], tmp_path: Path
) -> None:
    """What was learnt becomes plain weights, beside which new layers begin."""
    changes = {"model": str(runs["lora"] / "checkpoints" / "step-00000004"), "steps": 1, "learning_rate": 1e-30}
    for name, mode in (("on", {"mode": "lora", "lora": {"rank": 3}}), ("full", {"mode": "full"})):
        train("segment", tmp_path / name, quick(session_settings), changes, mode)
        read, start = weights(tmp_path / name / "model"), weights(runs["lora"] / "model")
        for key in start:
            if "running" not in key and "batches" not in key:
                torch.testing.assert_close(read[key], start[key], atol=1e-6, rtol=0)


def graph_parts(model: SegmentationModel, mode: str) -> tuple[set[str], bool]:
    """Parts whose parameters got a gradient, and whether the features were recorded by autograd."""
    freeze_parts(model, mode)
    seen: list[bool] = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(any(m.requires_grad for m in inputs[0])))
    images, labels = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, 64, 64, dtype=torch.long)
    model.train().loss(Batch(images=images, names=["a", "b"], labels=labels)).backward()
    return {part_of(name) for name, value in model.named_parameters() if value.grad is not None}, seen[0]


@pytest.mark.parametrize("gradient_checkpointing", [False, True, "cheap"])
@pytest.mark.parametrize("mode", ["frozen", "head"])
def test_frozen_parts_get_no_gradient(mode: str, gradient_checkpointing: Checkpointing, diffusion: Path) -> None:
    model = SegmentationModel.from_diffusion(
        diffusion,
        classes=("a", "b"),
        fit=Resize(size_px=64),
        head_channels=8,
        gradient_checkpointing=gradient_checkpointing,
    )
    parts, recorded = graph_parts(model, mode)
    assert parts == set(PARTS[mode])
    assert recorded == (mode == "frozen")  # the adapter learns through the UNet


def test_head_mode_keeps_no_activation_of_the_unet(diffusion: Path) -> None:
    """Tensors that autograd saves: in mode `head` none before the head."""
    saved = {}
    for mode in ("frozen", "head"):
        backbone = StableDiffusionBackbone.from_pretrained(diffusion)
        adapter = nn.Linear(16, 16)
        freeze_parts(nn.ModuleDict({"backbone": backbone, "adapter": adapter}), mode)
        sizes: list[int] = []

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            backbone(torch.rand(1, 3, 64, 64), adapter(torch.randn(1, 3, 16)))
        saved[mode] = sum(sizes)
    assert saved["frozen"] > 0 == saved["head"]


def test_lora_mode_needs_the_layers(diffusion: Path) -> None:
    model = SegmentationModel.from_diffusion(diffusion, classes=("a", "b"), head_channels=8)
    with pytest.raises(UsageError, match=r"no low-rank layers: call `model.add_lora"):
        freeze_parts(model, "lora")


def test_what_does_not_go_together_is_refused() -> None:
    given = {"model": "sd", "data": {"root": "data"}}
    with pytest.raises(UsageError, match="mode=lora needs recipe=default"):
        resolve_config("segment", given, {"recipe": "reference", "mode": "lora"})
    with pytest.raises(UsageError, match="momentum=0.9 is for optimiser=sgd"):
        resolve_config("segment", given, {"momentum": 0.9})
    with pytest.raises(UsageError, match=r"lora.rank: Input should be greater than or equal to 1, got 0"):
        resolve_config("segment", given, {"lora": {"rank": 0}})


@pytest.mark.parametrize("mode", ["frozen", "head"])
def test_published_groups_leave_out_what_is_frozen(mode: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    train("segment", tmp_path / "run", quick(settings), {"recipe": "reference", "mode": mode, "steps": 1})
    state = load_file(tmp_path / "run" / "checkpoints" / "step-00000001" / "optimiser.safetensors")
    assert {part_of(name) for name in state} == set(PARTS[mode])
