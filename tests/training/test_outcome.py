"""The models that a run leaves: the best one and the last, however it was interrupted, made longer or stopped early."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vpd
from vpd.errors import UsageError
from vpd.evaluation.evaluate import measure
from vpd.files.atomic import read_json
from vpd.training.run import train
from weights import assert_equal_weights, weights


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What each validation to come will find, first the last of the list."""
    scores = list[float]()

    def measured(*args: Any, **options: Any) -> SimpleNamespace:
        report = measure(*args, **options).report()
        report["metrics"]["mIoU"] = scores.pop()
        return SimpleNamespace(report=lambda: report)

    monkeypatch.setattr("vpd.training.loop.measure", measured)
    return scores


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"mode": "lora"}], ids=["full", "ema", "lora"])
def test_the_best_model_is_left_and_the_last_beside_it(
    tmp_path: Path, settings: dict[str, Any], scored: list[float], changes: dict[str, Any], caplog
):
    scored[:] = [0.25, 0.5]
    folder = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        assert train("segment", folder, settings | changes) == folder / "model"
    told = f"Best: mIoU 50.0 % after step 2: {folder / 'model'}. Last: mIoU 25.0 % after step 4: {folder / 'last'}."
    assert told in caplog.text
    steps = {name: read_json(folder / name / "outcome.json")["step"] for name in ("model", "last")}
    assert steps == {"model": 2, "last": 4}
    for name, step in steps.items():
        assert not {path.name for path in (folder / name).iterdir()} & {"state.json", "optimiser.safetensors"}
        model, saved = vpd.load(folder / name), vpd.load(checkpoint(folder, step))
        assert model.backbone.config.lora is None
        saved.merge_lora()
        assert all((value == saved.state_dict()[key]).all() for key, value in model.state_dict().items())
    if not changes:
        files = (folder / "model" / "model.safetensors", checkpoint(folder, 2) / "model.safetensors")
        assert files[0].stat().st_ino == files[1].stat().st_ino  # no second time on the disk


def test_there_is_one_model_where_the_last_is_best_or_nothing_is_measured(
    tmp_path: Path, settings: dict[str, Any], scored: list[float], caplog
):
    scored[:] = [0.5, 0.25]
    with caplog.at_level(logging.INFO):
        train("segment", tmp_path / "rising", settings)
    assert f"Best: mIoU 50.0 % after step 4, the last: {tmp_path / 'rising' / 'model'}." in caplog.text
    train("segment", tmp_path / "blind", settings, {"data": {"validation_split": None}})
    for name in ("rising", "blind"):
        assert not (tmp_path / name / "last").exists()
        assert_equal_weights(tmp_path / name / "model", checkpoint(tmp_path / name, 4))


def test_a_finished_run_is_made_longer_and_leaves_its_best_of_all(
    tmp_path: Path, settings: dict[str, Any], scored: list[float], caplog
):
    scored[:] = [0.25, 0.125, 0.25, 0.5]
    folder = tmp_path / "run"
    train("segment", folder, settings)
    with caplog.at_level(logging.INFO):
        train("segment", folder, {"steps": 8}, resume=True)
    assert "The run goes on to 8 steps instead of 4. The learning rate follows the course of a run of 8" in caplog.text
    assert "the next step has 0.0005 of at most 0.001" in caplog.text
    assert read_json(folder / "model" / "outcome.json")["step"] == 2
    assert read_json(folder / "last" / "outcome.json")["step"] == 8
    assert vpd.load(folder / "last").config.notes["training"]["steps"] == 8
    before = (folder / "model" / "outcome.json").stat().st_mtime_ns
    train("segment", folder, resume=True)  # nothing is left to do, and nothing is written anew
    assert (folder / "model" / "outcome.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"started for 8 steps and has done 8; it can be made longer, not shorter \(6"):
        train("segment", folder, {"steps": 6}, resume=True)


def test_a_better_end_of_a_longer_run_replaces_the_model(tmp_path: Path, settings: dict[str, Any], scored: list[float]):
    scored[:] = [0.75, 0.125, 0.25, 0.5]
    folder = tmp_path / "run"
    train("segment", folder, settings)
    train("segment", folder, {"steps": 8}, resume=True)
    assert read_json(folder / "model" / "outcome.json")["step"] == 8 and not (folder / "last").exists()
    assert_equal_weights(folder / "model", checkpoint(folder, 8))


def test_patience_ends_a_run_and_resuming_it_too(tmp_path: Path, settings: dict[str, Any], scored: list[float], caplog):
    scored[:] = [0.25, 0.375, 0.5]
    folder, changes = tmp_path / "run", {"steps": 20, "patience": 2, "checkpoint_every": 20, "keep": 1}
    with caplog.at_level(logging.INFO):
        train("segment", folder, settings | changes)
    told = "Stopped early after step 6 of 20: none of 2 validations was better than that after step 2."
    assert told in caplog.text
    assert read_json(folder / "model" / "outcome.json")["step"] == 2
    assert read_json(folder / "last" / "outcome.json")["step"] == 6
    train("segment", folder, resume=True)
    assert not scored  # nothing was measured again
    scored[:] = [1.0]
    train("segment", folder, {"patience": None, "steps": 20, "validate_every": 20}, resume=True)
    assert read_json(folder / "model" / "outcome.json") == {"step": 20, "scores": {"mIoU": 1.0} | _others(folder)}


def _others(folder: Path) -> dict[str, float]:
    scores = read_json(folder / "model" / "outcome.json")["scores"]
    return {name: value for name, value in scores.items() if name != "mIoU"}


def test_stopped_at_the_end_and_resumed_leaves_the_same_models(
    tmp_path: Path, settings: dict[str, Any], scored: list[float], monkeypatch: pytest.MonkeyPatch
):
    scored[:] = [0.25, 0.5]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train("segment", whole, settings)

    def stop(*_: object) -> None:
        raise SystemExit(143)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("vpd.training.loop.leave_models", stop)
        scored[:] = [0.25, 0.5]
        train("segment", killed, settings)
    assert not (killed / "model").exists()
    train("segment", killed, resume=True)
    for name in ("model", "last"):
        assert weights(killed / name).keys() == weights(whole / name).keys()
        assert_equal_weights(killed / name, whole / name)
