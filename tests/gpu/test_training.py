"""Training on a GPU: it learns, stops and goes on, in each way that changes what runs there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import torchrun
from safetensors.torch import load_file

import vpd
from tiny_data import write_depth_data, write_refer_data, write_segment_data
from vpd.files.atomic import read_json_lines

pytest.importorskip("pycocotools")
from vpd.training.run import train

HEADS: dict[str, dict[str, Any]] = {
    "segment": {"head_channels": 8},
    "refer": {"head_channels": 8, "token_length": 8},
    "depth": {"head_channels": 16, "feature_channels": 16, "deconv_channels": [8, 8, 8]},
}
WRITERS = {"segment": write_segment_data, "refer": write_refer_data, "depth": write_depth_data}
BF16 = {"precision": "bf16", "channels_last": True}
WAYS: dict[str, dict[str, Any]] = {
    "bf16, average of weights": {**BF16, "ema_decay": 0.9},
    "bf16, checkpointing": {**BF16, "gradient_checkpointing": True, "accumulate": 2},
    "head, cached latents": {"mode": "head", "cache_mb": 16},
    "LoRA": {**BF16, "mode": "lora"},
}
NEAR = 1e-2
"""Of losses, and of weights as L2 distance over the norm: on a GPU sums of gradients come in any order."""


@pytest.fixture(scope="session")
def settings_of(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Settings of a run of four steps."""
    root = tmp_path_factory.mktemp("data")
    data = {task: write(root / task) for task, write in WRITERS.items()}

    def settings(task: str) -> dict[str, Any]:
        return {
            "model": str(folders["diffusion"]),
            "data": {"root": str(data[task])},
            "model_options": HEADS[task],
            "crop_px": 64,
            "steps": 4,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "workers": 0,
            "log_every": 1,
            "validate_every": 2,
            "checkpoint_every": 2,
            "pictures": 0,
            "trackers": [],
        }

    return settings


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_json_lines(folder / "log.jsonl") if line["kind"] == "train"]


def assert_near(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[key].double() - theirs[key]).square().sum()) for key in ours)
    assert (difference / sum(float(value.double().square().sum()) for value in theirs.values())) ** 0.5 < NEAR


@pytest.mark.parametrize("task", WRITERS)
def test_a_task_is_trained_on_the_device(
    task: str, settings_of: Any, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batches lie where the model does, and the trained model is read back there."""
    seen: set[str] = set()
    kind = vpd.tasks.table.TASKS[task]
    whole = kind.loss_sum

    def loss_sum(self: Any, batch: Any, **options: Any) -> Any:
        seen.add(batch.images.device.type)
        return whole(self, batch, **options)

    monkeypatch.setattr(kind, "loss_sum", loss_sum)
    trained = train(task, tmp_path / "run", settings_of(task))
    assert seen == {device.type}
    assert all(loss == loss and loss < 1e4 for loss in losses(tmp_path / "run"))
    words = {"text": "left square"} if task == "refer" else {}
    vpd.load(trained, device=device).predict(torch.rand(3, 60, 80), **words)


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on(way: str, settings_of: Any, tmp_path: Path) -> None:
    if way == "LoRA":
        pytest.importorskip("peft")
    settings = settings_of("segment") | WAYS[way]
    settings["model_options"] = {**HEADS["segment"], "head_norm": "group"}  # for a picture at a time
    whole = train("segment", tmp_path / "whole", settings)
    stopped = tmp_path / "stopped"
    shutil.copytree(whole.parent, stopped)
    shutil.rmtree(stopped / "model")
    shutil.rmtree(stopped / "checkpoints/step-00000004")
    assert_near(train("segment", stopped, resume=True), whole)
    assert losses(stopped) == pytest.approx(losses(whole.parent), rel=NEAR)


def test_two_devices_learn_what_one_does(settings_of: Any, device: torch.device, tmp_path: Path) -> None:
    """Two processes with a device each, as torchrun starts them."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    import yaml

    settings = settings_of("segment") | {"batch_size": 4, "model_options": {**HEADS["segment"], "head_norm": "group"}}
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "segment.yaml").write_text(yaml.safe_dump(settings))
    done = torchrun(2, Path(__file__).parents[1] / "training/train_all.py", folder)
    assert done.returncode == 0, done.stderr
    train("segment", tmp_path / "one", settings)
    assert losses(folder / "segment two") == pytest.approx(losses(tmp_path / "one"), rel=NEAR)
