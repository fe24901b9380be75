"""A whole run: what it leaves behind, how it is refused, and where it goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import vpd
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.training.run import train
from weights import assert_equal_weights, weights


def test_a_run_leaves_a_model_that_predicts_and_a_record(tmp_path: Path, settings: dict[str, Any]):
    folder = tmp_path / "run"
    assert train("segment", folder, settings) == folder / "model"
    model = vpd.load(folder / "model")
    assert model.config.classes == ("left", "right", "square")
    assert model.config.fit.size_px == 64
    assert model.config.notes["training"]["steps"] == 4 and str(tmp_path) not in str(model.config.notes)
    assert model.predict(Image.new("RGB", (50, 40))).labels.shape == (40, 50)
    assert_equal_weights(
        folder / "last" if (folder / "last").exists() else folder / "model", folder / "checkpoints" / "step-00000004"
    )
    log = read_json_lines(folder / "log.jsonl")
    assert [line["step"] for line in log if line["kind"] == "train"] == [1, 2, 3, 4]
    assert [line["step"] for line in log if line["kind"] == "validation"] == [2, 4]
    assert all(0 <= line["mIoU"] <= 1 for line in log if line["kind"] == "validation")
    assert {path.name for path in (folder / "pictures").iterdir()} == {"step-00000002.png", "step-00000004.png"}
    assert list((folder / "tensorboard").glob("events.*"))
    state = json.loads((folder / "checkpoints/step-00000004/state.json").read_text())
    assert state["step"] == 4 and "mIoU" in state["scores"]


def test_a_run_says_before_its_start_how_long_it_will_take(
    tmp_path: Path, settings: dict[str, Any], caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    train("segment", tmp_path / "silent", settings)
    assert "This will take" not in caplog.text
    monkeypatch.setattr("vpd.training.timing._LONG_S", 0.0)
    train("segment", tmp_path / "run", settings | {"crop_px": 128}, show_bar=True)
    (told,) = [line for line in caplog.messages if "This will take" in line]
    assert "4 steps of" in told and "2 validations of" in told and "With -s crop_px=64 -s batch_size=2 about" in told


def test_a_single_picture_at_a_time_is_refused_in_our_words(tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises(UsageError, match=r"BatchNorm .* single picture .* model_options\.head_norm=group"):
        train("segment", tmp_path / "run", settings | {"batch_size": 1})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
@pytest.mark.parametrize("recipe", ["reference", "default"])
def test_every_task_trains_with_either_recipe(task, recipe, tmp_path, settings, small_heads, data_of):
    changes = {"recipe": recipe, "data": {"root": str(data_of[task])}, "model_options": small_heads[task], "steps": 2}
    folder = train(task, tmp_path / "run", settings | changes)
    model = vpd.load(folder)
    assert model.config.task == task and model.config.recipe == recipe
    log = read_json_lines(tmp_path / "run" / "log.jsonl")
    score = {"segment": "mIoU", "refer": "oIoU_squashed", "depth": "rmse"}[task]
    assert score in log[-1]


def test_the_resolved_settings_repeat_the_run(tmp_path: Path, settings: dict[str, Any]):
    train("segment", tmp_path / "one", settings)
    resolved = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    train("segment", tmp_path / "two", resolved)
    assert_equal_weights(tmp_path / "one" / "model", tmp_path / "two" / "model")
    assert yaml.safe_load((tmp_path / "two" / "config.yaml").read_text()) == resolved


@pytest.mark.parametrize(("task", "kind"), [("segment", True), ("refer", True), ("depth", True), ("refer", "cheap")])
def test_gradient_checkpointing_learns_the_same(task, kind, tmp_path, settings, small_heads, data_of):
    changes = {"data": {"root": str(data_of[task])}, "model_options": small_heads[task], "steps": 2, "pictures": 0}
    kept = train(task, tmp_path / "kept", settings | changes)
    again = train(task, tmp_path / "again", settings | changes | {"gradient_checkpointing": kind})
    one, other = weights(kept), weights(again)
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_every_task_trains_in_bf16_and_keeps_float32_weights(task, tmp_path, settings, small_heads, data_of):
    changes = {"data": {"root": str(data_of[task])}, "model_options": small_heads[task], "steps": 2}
    folder = train(task, tmp_path / "run", settings | changes | {"precision": "bf16"})
    assert {value.dtype for value in weights(folder).values() if value.is_floating_point()} == {torch.float32}
    log = read_json_lines(tmp_path / "run" / "log.jsonl")
    assert all(line["loss"] > 0 for line in log if line["kind"] == "train")


def test_published_groups_need_the_published_head(tmp_path: Path, settings: dict[str, Any]):
    changes = {"recipe": "reference", "model_options": {"head": "open", "head_channels": 8}}
    with pytest.raises(UsageError, match=r"recipe=reference sorts parameters .* head.*Use recipe=default"):
        train("segment", tmp_path / "run", settings | changes)


def test_resuming_where_no_run_is_names_runs_that_are_called_alike(tmp_path: Path, settings: dict[str, Any], caplog):
    train("segment", tmp_path / "streets", settings | {"steps": 1, "validate_every": 100})
    with pytest.raises(UsageError, match=r"streetz holds no run to go on with\. Did you mean .*/streets\?.* --data"):
        train("segment", tmp_path / "streetz", resume=True)
    assert not (tmp_path / "streetz").exists()
    with pytest.raises(UsageError, match=r"other holds no run to go on with\. To start one there"):
        train("segment", tmp_path / "other", resume=True)
    caplog.set_level(logging.INFO)
    train("segment", tmp_path / "street", settings | {"steps": 1, "validate_every": 100}, resume=True)
    assert "street holds no run to go on with: one starts there. Did you mean" in caplog.text
