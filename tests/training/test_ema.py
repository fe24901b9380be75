"""The moving average of the weights, by hand, and through a run that is stopped and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import vpd
from vpd.datasets.layouts import open_data
from vpd.errors import UsageError
from vpd.evaluation.evaluate import evaluate
from vpd.files.atomic import read_json_lines
from vpd.training.ema import TRAINING_WEIGHTS_FILE, WeightAverage, averaged
from vpd.training.run import train
from weights import assert_equal_weights, weights


def model_of(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    model[1].requires_grad_(False)
    return model


def test_average_by_hand() -> None:
    model = model_of(1.0)
    average = WeightAverage(model, decay=0.5)
    wanted = 1.0
    for step, value in enumerate((2.0, 3.0, 5.0, 7.0, 9.0, 4.0, 4.0, 4.0, 4.0, 4.0)):
        nn.init.constant_(model[0].weight, value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))  # 0.1, 2/11, ... and a half from the ninth on
        wanted = decay * wanted + (1 - decay) * value
    with averaged(average) as training_weights:
        assert model[0].weight.item() == pytest.approx(wanted)
        assert training_weights["0.weight"].item() == 4.0
        assert training_weights.keys() == {"0.weight", "2.weight", "2.bias"}  # no frozen weights, no buffers
    assert model[0].weight.item() == 4.0
    assert average.num_bytes == 3 * 4


def test_weights_come_back_after_an_error() -> None:
    model = model_of(1.0)
    average = WeightAverage(model, decay=0.5)
    nn.init.constant_(model[0].weight, 3.0)
    with pytest.raises(RuntimeError, match="stop"), averaged(average):
        assert model[0].weight.item() == 1.0
        raise RuntimeError("stop")
    assert model[0].weight.item() == 3.0


def test_without_an_average_nothing_happens() -> None:
    with averaged(None) as training_weights:
        assert training_weights == {}


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training_weights.safetensors does not hold .*3 names differ, such as 0.we"):
        WeightAverage(model_of(1.0), decay=0.5).restore(tmp_path)


@pytest.fixture(scope="module")
def averaging(session_settings: dict[str, Any]) -> dict[str, Any]:
    return session_settings | {"ema_decay": 0.9, "pictures": 0, "trackers": [], "mode": "lora", "lora": {"rank": 2}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, averaging: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("ema") / "run"
    train("segment", folder, averaging)
    return folder


def test_training_itself_is_as_without_an_average(finished: Path, averaging: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train("segment", folder, averaging | {"ema_decay": None})
    last = Path("checkpoints", "step-00000004")
    plain, trained = weights(folder / last), load_file(finished / last / TRAINING_WEIGHTS_FILE)
    mean = weights(finished / last)
    assert trained and all(torch.equal(value, plain[name]) for name, value in trained.items())
    assert plain.keys() == mean.keys() and all(
        torch.equal(mean[name], plain[name]) for name in plain.keys() - trained.keys()
    )
    assert not torch.equal(mean["head.classifier.weight"], plain["head.classifier.weight"])


def test_resumed_run_has_the_same_average_and_the_same_weights(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    train("segment", folder, resume=True)
    last = Path("checkpoints", "step-00000004")
    assert_equal_weights(finished / "model", folder / "model")
    assert_equal_weights(finished / last, folder / last)
    ours, theirs = (load_file(run / last / TRAINING_WEIGHTS_FILE) for run in (finished, folder))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_average_is_what_is_measured_and_what_is_left(finished: Path, data_of: dict[str, Path]) -> None:
    measured = [line for line in read_json_lines(finished / "log.jsonl") if line["kind"] == "validation"][-1]
    data = open_data(data_of["segment"], "segment", split="val")
    for folder in (finished / "checkpoints" / "step-00000004", finished / "model"):
        metrics = evaluate(vpd.load(folder, device="cpu"), data, batch_size=2)["metrics"]
        assert metrics["mIoU"] == pytest.approx(measured["mIoU"], abs=1e-6)


def test_torn_training_weights_pass_the_checkpoint_over(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "model")
    torn = folder / "checkpoints" / "step-00000004" / TRAINING_WEIGHTS_FILE
    torn.write_bytes(torn.read_bytes()[:-10])
    train("segment", folder, resume=True)
    assert "step-00000004 is not used" in caplog.text
    assert_equal_weights(finished / "model", folder / "model")
