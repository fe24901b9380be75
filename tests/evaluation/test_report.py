"""The table and the folder that an evaluation leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hand_made import Samples
from vpd.config import Resize
from vpd.data.sample import Sample
from vpd.evaluation.evaluate import measure
from vpd.evaluation.report import (
    class_rows,
    count_words,
    interval_words,
    metric_rows,
    ranked,
    spread,
    write_report,
    write_value,
)
from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

TOLD = {"model": "my|model", "data": "DIR", "format": "folder", "split": "val", "settings": {"batch": 1}}


def report(**changes: Any) -> dict[str, Any]:
    """What an evaluation of three classes might say."""
    return {
        "task": "segment",
        "samples": 3,
        "available": 3,
        "groups": 3,
        "metrics": {"mIoU": 0.5, "aAcc": 0.75},
        "intervals": {"mIoU": [0.4, 0.6], "aAcc": [0.7, 0.8]},
        "per_class": {
            "nowhere": {"IoU": math.nan, "Acc": math.nan, "share": 0.0},
            "bad": {"IoU": 0.1, "Acc": 0.2, "share": 0.3},
            "good": {"IoU": 0.9, "Acc": 0.95, "share": 0.7},
        },
        "protocol": {"": "labels at the size of the images"},
        "fit": Resize().model_dump(mode="json"),
        **changes,
    }


def test_values_have_their_unit():
    assert write_value("mIoU", 0.41239) == "41.24 %"
    assert write_value("oIoU_squashed", 1.0) == "100.00 %"
    assert write_value("d1", 0.9641) == "0.9641"
    assert write_value("rmse", 0.25404) == "0.2540 m"
    assert write_value("abs_rel", 0.069) == "0.0690"
    assert write_value("sentences_squashed", 168.0) == "168"
    assert write_value("IoU", math.nan) == "–"


def test_metrics_stand_under_what_was_measured():
    both = report(
        metrics={"oIoU": 0.5, "oIoU_squashed": 0.25}, intervals={}, protocol={"": "original", "_squashed": "squashed"}
    )
    assert list(metric_rows(both)) == [
        ("Original", [("oIoU", "50.00 %", "")]),
        ("Squashed", [("oIoU_squashed", "25.00 %", "")]),
    ]
    ((_, rows),) = metric_rows(report())
    assert ("mIoU", "50.00 %", "40.00 % to 60.00 %") in rows


def test_classes_stand_from_best_to_worst():
    assert [name for name, _ in class_rows(report())] == ["good", "bad", "nowhere"]
    assert dict(class_rows(report()))["nowhere"] == {"IoU": "–", "Acc": "–", "share": "0.00 %"}


def test_words_about_samples_and_groups():
    assert interval_words(report(samples=12, groups=12)) == "Intervals: 95 %, bootstrap over 12 samples."
    assert "over 3 samples. With only 3 of these to draw from they are weak" in interval_words(report())
    frames = interval_words(report(samples=101, groups=2, grouped_by="recording"))
    assert frames.startswith("101 frames of 2 recordings. Intervals: 95 %, bootstrap over recordings. With only 2")
    one_film = interval_words(report(samples=101, groups=1, grouped_by="recording"))
    assert one_film.startswith("No intervals: all 101 samples are frames of one recording") and "--group-by" in one_film
    assert "2 groups of 3 samples (by (.*)_)" in interval_words(report(groups=2, grouped_by="(.*)_"))
    assert "2 groups of 3 samples" in interval_words(report(groups=2))
    assert "all samples belong to one group" in interval_words(report(groups=1))
    assert "there is one sample" in interval_words({**report(groups=1), "samples": 1})
    assert count_words(report()) == "3 samples"
    assert count_words(report(available=654)) == "The first 3 of 654 samples"


def test_worst_means_low_shares_and_high_errors():
    assert ranked([0.5, math.nan, 0.1, 0.9, 0.1], SegmentationModel) == [2, 4, 0, 3]
    assert ranked([0.5, math.nan, 0.1, 0.9], DepthModel) == [3, 0, 2]


def test_one_of_each_group_comes_first():
    assert spread([4, 2, 0, 1, 3], ["a", "b", "a", "b", "a"]) == [4, 1, 2, 0, 3]
    assert spread([], []) == []


def test_a_folder_of_segmentation(tiny_diffusion: Path, tmp_path: Path):
    torch.manual_seed(0)
    classes = ("sky", "a *bold* | class", "tree")
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=classes, head_channels=8, fit=Resize(size_px=64))
    generator = np.random.default_rng(0)
    samples = Samples(
        Sample(
            f"street_{index}",
            generator.integers(0, 256, (40, 60, 3), np.uint8),
            labels=np.full((40, 60), 255 if index == 3 else index % 3, np.uint8),
            group=f"town {index // 2}",
        )
        for index in range(8)
    )
    evaluation = measure(model, samples, batch_size=4)
    write_report(tmp_path, {**evaluation.report(), **TOLD}, evaluation, samples)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.md", "scores.json", "samples.jsonl", "worst.png", "typical.png", "best.png")
    }
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [sample.name for sample in samples]
    assert lines[3]["metrics"]["aAcc"] is None and lines[0]["metrics"]["aAcc"] is not None  # nothing labelled
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"] == evaluation.report()["metrics"]
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# segment: my\\|model on DIR, val\n")
    assert "a \\*bold\\* \\| class" in page and "![worst samples](worst.png)" in page
    assert "bootstrap over 4 groups of 8 samples" in page
    worst = min(
        (line for line in lines if line["metrics"]["mIoU"] is not None), key=lambda line: line["metrics"]["mIoU"]
    )
    assert f"1. {worst['name'].replace('_', chr(92) + '_')} · mIoU" in page
    for name in ("worst", "typical", "best"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.width > 3 * 256 and sheet.height > 6 * 170


def test_the_worst_expressions_are_said(tiny_diffusion: Path, tmp_path: Path):
    model = ReferringModel.from_diffusion(
        tiny_diffusion, token_length=8, head_channels=8, fit=Resize(mode="squash", size_px=64)
    )
    samples = Samples(
        Sample(f"ref_{index}", np.zeros((40, 60, 3), np.uint8), mask=np.ones((40, 60), bool), texts=(text,))
        for index, text in enumerate(("the left cup", "the *red* one"))
    )
    evaluation = measure(model, samples)
    write_report(tmp_path, {**evaluation.report(), **TOLD}, evaluation, samples)
    worst = (tmp_path / "report.md").read_text().partition("## Worst samples")[2]
    assert " · “the left cup”\n" in worst and " · “the \\*red\\* one”\n" in worst
    first = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
    assert first["texts"] == ["the left cup"]


def test_a_folder_in_which_nothing_counted_has_no_pictures(tiny_diffusion: Path, tmp_path: Path):
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    model = DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), fit=Resize(size_px=64), **small)
    samples = Samples([Sample("dark", np.zeros((40, 60, 3), np.uint8), depth_m=np.zeros((40, 60), np.float32))])
    evaluation = measure(model, samples)
    write_report(tmp_path, {**evaluation.report(), **TOLD}, evaluation, samples)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "scores.json", "samples.jsonl"}
    assert "| rmse | – |" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["rmse"] is None


def test_sheets_show_the_samples_they_say(tiny_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown: list[list[str]] = []
    monkeypatch.setattr(
        "vpd.evaluation.report.draw_sheet",
        lambda _, samples, **words: shown.append([sample.name for sample in samples]) or Image.new("RGB", (1, 1)),
    )
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    model = DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), fit=Resize(size_px=64), **small)
    depths = {"near": 4.0, "middle": 2.0, "far": 0.1}
    samples = Samples(
        Sample(name, np.zeros((40, 60, 3), np.uint8), depth_m=np.full((40, 60), depth_m, np.float32))
        for name, depth_m in depths.items()
    )
    evaluation = measure(model, samples)
    errors = {entry.name: score["rmse"] for entry, score in zip(evaluation.table, evaluation.scores(), strict=True)}
    write_report(tmp_path, {**evaluation.report(), **TOLD}, evaluation, samples)
    worst, typical, best = shown
    assert worst == sorted(errors, key=errors.get, reverse=True) and best == worst[::-1]
    assert typical[0] == worst[1]
