"""The course of a run as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import vpd
from vpd.files.atomic import read_json_lines
from vpd.tasks.depth import DepthModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.curves import draw_curves, run_charts
from vpd.training.run import train


def lines(classes: int = 3) -> list[dict[str, Any]]:
    train_lines = [{"step": step, "kind": "train", "loss": 2 / step, "learning_rate": 1e-3} for step in range(1, 5)]
    scores = [{"step": step, "kind": "validation", "mIoU": 0.5 - step / 10, "rmse": step / 2} for step in (2, 4)]
    of_classes = [
        {"step": 2, "kind": "measured", "per_class": {f"class {n}": {"IoU": n / 100 or None} for n in range(classes)}}
    ]
    return [*train_lines, {"step": 3, "kind": "skipped", "loss": None}, *scores, *of_classes]


def test_what_a_log_holds_is_drawn():
    charts = dict(run_charts(lines(), SegmentationModel))
    assert list(charts) == ["Training loss", "mIoU in validation", "IoU of each class in validation", "Learning rate"]
    assert "best: 0.3 after 2" in charts["mIoU in validation"]
    assert "best: 1 after 2" in dict(run_charts(lines(), DepthModel))["rmse in validation"]  # an error shall be small
    assert ">class 2<" in charts["IoU of each class in validation"]


def test_of_many_classes_those_at_the_ends():
    charts = dict(run_charts(lines(40), SegmentationModel))
    (title,) = (title for title in charts if title.startswith("IoU of each class"))
    assert "(16 of 40: the lowest and the highest)" in title
    shown = set(re.findall(r">(class \d+)<", charts[title]))
    assert shown == {f"class {n}" for n in range(32, 40)} | {f"class {n}" for n in range(1, 8)}  # class 0 has no value


def test_a_run_that_measured_nothing(tmp_path: Path):
    draw_curves(tmp_path, SegmentationModel)  # no log
    assert list(tmp_path.iterdir()) == []
    assert run_charts([{"step": 0, "kind": "validation", "mIoU": 0.1}], SegmentationModel) == []
    (only,) = run_charts([{"step": 1, "kind": "train", "loss": None}], SegmentationModel)
    assert only[0] == "Training loss" and "nan" not in only[1]


def test_what_has_no_score_has_its_loss():
    assert list(dict(run_charts(lines()[:4], torch.nn.Linear))) == ["Training loss", "Learning rate"]


def test_a_picture_that_cannot_be_written_costs_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines()))
    (tmp_path / "curves.svg").mkdir()
    draw_curves(tmp_path, SegmentationModel)
    assert "curves.svg cannot be drawn" in caplog.text


def test_a_run_leaves_its_curves_and_its_model_says_what_was_measured(tmp_path: Path, settings: dict[str, Any]):
    folder = tmp_path / "run"
    train("segment", folder, settings)
    ElementTree.parse(folder / "curves.svg")
    assert "IoU of each class" in (folder / "curves.svg").read_text()
    log = read_json_lines(folder / "log.jsonl")
    model = vpd.load(folder)
    told = model.config.notes["measured"]
    (validation,) = (line for line in log if line["kind"] == "validation" and line["step"] == told["step"])
    low, high = told["intervals"]["mIoU"]
    assert low <= told["metrics"]["mIoU"] == validation["mIoU"] <= high
    assert told["samples"] > 0 and told["split"]
    model.save(tmp_path / "copy")
    assert vpd.load(tmp_path / "copy").config.notes["measured"] == told
