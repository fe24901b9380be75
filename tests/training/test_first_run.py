"""A run of which nothing but model and data is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vpd
from vpd.errors import UsageError
from vpd.files.atomic import read_json
from vpd.training import first_run, timing
from vpd.training.auto_accumulate import nothing_changed
from vpd.training.first_run import left_out
from vpd.training.run import train
from weights import assert_equal_weights

SIZES = {"crop_px": 64, "batch_size": 2, "steps": 4}


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return config


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps teach enough."""
    monkeypatch.setattr("vpd.training.first_run._ENOUGH_STEPS", 4)
    monkeypatch.setattr("vpd.training.first_run._PASSES", 1)


def test_what_is_chosen_is_told_written_and_kept(tmp_path: Path, settings: dict[str, Any], few: None, caplog):
    given = {key: value for key, value in settings.items() if key in ("model", "data", "model_options", "workers")}
    folder = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        train("segment", folder, given)
    (told,) = [line for line in caplog.messages if line.startswith("Chosen, as not given: ")]
    config = config_of(folder)
    assert config["steps"] == 4 and config["validate_every"] == config["checkpoint_every"] == 1
    assert config["batch_size"] <= 8 and config["crop_px"] < 512
    for name in ("crop_px", "batch_size", "steps", "validate_every"):
        assert f"{name}={config[name]} (" in told
    assert vpd.load(folder).config.fit.size_px == config["crop_px"]
    train("segment", folder, resume=True)
    assert config_of(folder) == config


def test_a_smaller_size_for_want_of_time_is_told(
    tmp_path: Path, settings: dict[str, Any], few: None, caplog, monkeypatch
):
    monkeypatch.setattr("vpd.training.first_run._crops", lambda *_: [(128, "large"), (64, "small")])
    monkeypatch.setitem(first_run._AIM_S, "cpu", 1e-6)
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0.0, 0.0))
    given = {key: value for key, value in settings.items() if key in ("model", "data", "model_options", "workers")}
    train("segment", tmp_path / "run", given)
    (told,) = [line for line in caplog.messages if "-s crop_px=128 takes them all the same" in line]
    assert "at 128 px a step took too long" in told and "keep this machine busy (load 1000000" in told
    assert config_of(tmp_path / "run")["crop_px"] == 64


def test_a_few_steps_are_not_cut_to_a_smaller_size(
    tmp_path: Path, settings: dict[str, Any], caplog, monkeypatch: pytest.MonkeyPatch
):
    """As long as 200 steps may take, four of a size may take all of that; no other size is tried."""
    tried = []
    costs = timing.Timing(sample_s=1.0, small_sample_s=0.5, validation_sample_s=0.0)
    monkeypatch.setattr("vpd.training.first_run._crops", lambda *_: [(128, "large"), (64, "small")])
    monkeypatch.setattr("vpd.training.first_run.measure_pace", lambda _, config, *__: tried.append(config) or costs)
    monkeypatch.setitem(first_run._AIM_S, "cpu", 100.0)
    given = {key: value for key, value in settings.items() if key in ("model", "data", "model_options", "workers")}
    train("segment", tmp_path / "run", given | {"steps": 4, "batch_size": 2})
    assert [config.crop_px for config in tried] == [128] == [config_of(tmp_path / "run")["crop_px"]]


def test_what_is_given_stays_and_recipes_stay_as_they_are(tmp_path: Path, settings: dict[str, Any], few: None):
    assert left_out(SIZES) == set() and left_out({"recipe": "default"}) == set()
    assert "steps" not in left_out({"epochs": 3}) and "crop_px" not in left_out({"crop_px": 64})
    given = settings | {"validate_every": 3}
    del given["steps"]
    train("segment", tmp_path / "run", given)
    config = config_of(tmp_path / "run")
    assert (config["crop_px"], config["batch_size"], config["validate_every"], config["steps"]) == (64, 2, 3, 4)


def test_an_adapted_model_goes_on_at_its_own_size(tmp_path: Path, settings: dict[str, Any], few: None):
    train("segment", tmp_path / "first", settings)
    train(
        "segment",
        tmp_path / "second",
        {key: settings[key] for key in ("data", "workers")},
        {"model": str(tmp_path / "first")},
    )
    config = config_of(tmp_path / "second")
    assert config["crop_px"] == 64 and config["model"] == str(tmp_path / "first" / "model")


def test_timing_changes_nothing(tmp_path: Path, settings: dict[str, Any]):
    train("segment", tmp_path / "told", settings, show_bar=True)
    train("segment", tmp_path / "silent", settings)
    for name in ("step-00000002", "step-00000004"):
        assert_equal_weights(tmp_path / "told" / "checkpoints" / name, tmp_path / "silent" / "checkpoints" / name)


def test_random_numbers_and_buffers_are_put_back():
    model = torch.nn.BatchNorm2d(3)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with nothing_changed(model, torch.device("cpu")):  # type: ignore[arg-type]
        model(torch.randn(2, 3, 4, 4))
    assert torch.equal(torch.rand(4), expected) and not model.running_mean.any()


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path, settings: dict[str, Any], monkeypatch):
    wrong: list[dict[str, Any]] = [
        {"model": str(tmp_path / "nowhere")},
        {"model_options": {"head_chanels": 8}},
        {"data": {"split": "nope"}},
        {"classes": ["one"]},
    ]
    for changes in wrong:
        with pytest.raises(UsageError):
            train(
                "segment",
                tmp_path / "a" / "run",
                settings | changes | {"data": settings["data"] | changes.get("data", {})},
            )
        assert not (tmp_path / "a").exists(), changes
    with monkeypatch.context() as patch, pytest.raises(UsageError):
        patch.setattr("vpd.training.run_folder.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1}))
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("keep")
        train("segment", tmp_path / "mine", settings)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    train("segment", tmp_path / "mine", settings)


def test_a_run_is_taken_for_its_model(tmp_path: Path, settings: dict[str, Any], caplog):
    folder = tmp_path / "run"
    train("segment", folder, settings, {"keep": 2})
    assert vpd.load(folder).config == vpd.load(folder / "model").config
    for name in ("model", "last"):
        if (folder / name).exists():
            (folder / name).rename(tmp_path / name)
    scores = {
        step.name: read_json(step / "state.json")["scores"]["mIoU"]
        for step in sorted((folder / "checkpoints").iterdir())
    }
    assert vpd.load(folder) is not None
    assert f"taking its checkpoint {max(scores, key=scores.__getitem__)}, the best so far, mIoU" in caplog.text
    (folder / "checkpoints").rename(tmp_path / "checkpoints")
    with pytest.raises(UsageError, match="is a training run that has saved no model yet. Go on with it by --resume"):
        vpd.load(folder)


def test_a_batch_that_is_to_be_cut_is_the_recipes(tmp_path: Path, settings: dict[str, Any], few: None):
    given = {key: value for key, value in settings.items() if key in ("model", "data", "model_options", "workers")}
    train("segment", tmp_path / "run", given | {"accumulate": 8, "crop_px": 64})
    assert config_of(tmp_path / "run")["batch_size"] == 16


def test_two_samples_that_do_not_fit_are_timed_one_by_one(monkeypatch: pytest.MonkeyPatch):
    tried: list[int] = []

    def fits_one(loss_of: object, crop_px: int, count: int) -> float:
        tried.append(count)
        if count > most_that_fit:
            raise torch.OutOfMemoryError
        return 2.5

    monkeypatch.setattr("vpd.training.timing._pass_s", fits_one)
    most_that_fit = 1
    assert timing._sample_s(None, 64, 8) == 2.5 and tried == [2, 1]
    most_that_fit = 0
    with pytest.raises(torch.OutOfMemoryError):
        timing._sample_s(None, 64, 1)
