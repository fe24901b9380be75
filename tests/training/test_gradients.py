"""Gradients in 16 bits, channels-last order and compiled backbones: what they may change, and what not."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vpd.config import Resize
from vpd.errors import UsageError
from vpd.processes import find_processes
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import Batch
from vpd.training.feed import Feed
from vpd.training.run import train
from vpd.training.settings import resolve_config
from vpd.training.step import Stepper
from weights import assert_equal_weights, weights


def quick(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Nothing but training, in bfloat16."""
    data = settings["data"] | {"validation_split": None}
    return settings | {"data": data, "pictures": 0, "trackers": [], "precision": "bf16", **changes}


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"mode": "lora"}, {"optimiser": "sgd"}])
@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_narrow_gradients_lose_nothing(
    task: str,
    changes: dict[str, Any],
    session_settings: dict[str, Any],
    data_of: dict[str, Path],
    small_heads: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same bits as with gradients in float32, clipped ones too, however few are widened at a time."""
    monkeypatch.setattr("vpd.training.gradients._STEP_BYTES", 10_000)
    given = session_settings | {"data": {"root": str(data_of[task])}, "model_options": small_heads[task]}
    given = quick(given, steps=2, checkpoint_every=9, clip_norm=0.1, **changes)
    train(task, tmp_path / "narrow", given)
    monkeypatch.setattr("vpd.training.step.has_narrow_gradients", lambda config, accelerator: False)
    train(task, tmp_path / "wide", given)
    assert_equal_weights(tmp_path / "narrow" / "model", tmp_path / "wide" / "model")


def test_bad_step_changes_nothing(diffusion: Path) -> None:
    """Nor does it leave anything for the next."""
    model = SegmentationModel.from_diffusion(diffusion, classes=("a", "b"), fit=Resize(size_px=64), head_channels=8)
    settings = {"model": "x", "data": {"root": "x"}, "batch_size": 2, "crop_px": 64, "steps": 9, "precision": "bf16"}
    stepper = Stepper(model, resolve_config("segment", settings), find_processes())
    before = copy.deepcopy(model.state_dict())
    images, labels = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, 64, 64, dtype=torch.long)
    bad, good = (Batch(images=pixels, names=["a", "b"], labels=labels) for pixels in (images * torch.nan, images))
    assert stepper.take(0, 1e-3, Feed(iter([bad]), torch.device("cpu"))).is_bad
    parameters = dict(model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())
    assert all(value.grad is None for value in parameters.values())
    model.load_state_dict(before)  # BatchNorm's running means
    assert not stepper.take(1, 1e-3, Feed(iter([good]), torch.device("cpu"))).is_bad
    assert not all(torch.equal(value, before[name]) for name, value in parameters.items())


def test_what_was_trained_is_left_to_others(diffusion: Path) -> None:
    model = SegmentationModel.from_diffusion(diffusion, classes=("a", "b"), fit=Resize(size_px=64), head_channels=8)
    settings = {"model": "x", "data": {"root": "x"}, "batch_size": 2, "crop_px": 64, "steps": 9, "precision": "bf16"}
    stepper = Stepper(model, resolve_config("segment", settings), find_processes())
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    batch = Batch(images=torch.rand(2, 3, 64, 64) * 2 - 1, names=["a", "b"], labels=labels)
    stepper.take(0, 1e-3, Feed(iter([batch]), torch.device("cpu")))
    stepper.close()
    total, _ = model.loss_sum(batch)
    total.backward()
    trained = [value for value in model.backbone.unet.parameters() if value.requires_grad and value.ndim > 1]
    assert trained and all(value.grad is not None for value in trained)


@pytest.mark.parametrize(
    "clash", [{"channels_last": True, "optimiser": "adamw_8bit"}, {"compile": True, "cache_mb": 9}]
)
def test_settings_that_would_do_nothing(clash: dict[str, Any]) -> None:
    settings = {"model": "x", "data": {"root": "x"}, "batch_size": 2, "crop_px": 64, "steps": 9}
    with pytest.raises(UsageError, match=f"{next(iter(clash))}=true does not go with"):
        resolve_config("segment", settings | clash)


@pytest.mark.parametrize("changes", [{"ema_decay": 0.5}, {"optimiser": "sgd", "momentum": 0.9}])
def test_channels_last_resumes_to_the_same_bits(
    changes: dict[str, Any], session_settings: dict[str, Any], tmp_path: Path
) -> None:
    given = quick(session_settings, channels_last=True, keep=9, **changes)
    train("segment", tmp_path / "run", given)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "model")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-00000004")
    train("segment", tmp_path / "again", resume=True)
    for part in ("model", "checkpoints/step-00000004"):
        assert_equal_weights(tmp_path / "run" / part, tmp_path / "again" / part)


def test_channels_last_is_the_same_but_for_rounding(session_settings: dict[str, Any], tmp_path: Path) -> None:
    for name, is_last in (("last", True), ("first", False)):
        given = quick(session_settings, precision="no", channels_last=is_last, optimiser="sgd", steps=1)
        train("segment", tmp_path / name, given)
    one, other = (weights(tmp_path / name / "model") for name in ("last", "first"))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], atol=1e-5, rtol=1e-5)


def test_compile_is_for_the_backbone(diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's compiler itself takes minutes."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    model = SegmentationModel.from_diffusion(diffusion, classes=("a", "b"), fit=Resize(size_px=64), head_channels=8)
    settings = {"model": "x", "data": {"root": "x"}, "batch_size": 2, "crop_px": 64, "steps": 9, "compile": True}
    Stepper(model, resolve_config("segment", settings), find_processes())
    assert compiled == [model.backbone] and model.backbone._blocks is None
    Stepper(model, resolve_config("segment", settings | {"compile": "regional"}), find_processes())
    assert compiled == [model.backbone] and model.backbone._blocks is not None
