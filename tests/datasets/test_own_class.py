"""A data set class from outside: no layout, no folder, and yet trained on, measured and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vpd.data.batches import SampleStream
from vpd.data.sample import Sample, SampleSet
from vpd.datasets import layouts
from vpd.datasets.check import check_data, check_samples
from vpd.datasets.layout import Layout
from vpd.errors import UsageError
from vpd.evaluation.evaluate import evaluate
from vpd.tasks.segmentation import SegmentationModel


class Halves(SampleSet):
    """Pictures that are dark on one side and light on the other."""

    classes = ("dark", "light")

    def __init__(self, root: str | Path = "", split: str = "train", *, count: int = 4) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index == 99:
            raise UsageError("half 99: lost")
        labels = np.zeros((64, 64), dtype=np.uint8)
        labels[:, 16 + index % 32 :] = 1
        return Sample(f"half {index}", np.repeat(labels[..., None], 3, axis=2) * np.uint8(255), labels=labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_trained_on(workers: int, tiny_diffusion: Path):
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=Halves.classes, head_channels=8)
    transform = SegmentationModel.augmentation("default", 64)
    batch = next(iter(SampleStream(Halves(), transform, seed=0, batch_size=2, workers=workers)))
    assert model.loss(batch).isfinite()


def test_it_is_measured(tiny_diffusion: Path):
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=Halves.classes, head_channels=8)
    report = evaluate(model, Halves(), batch_size=2)
    assert report["samples"] == 4 and set(report["per_class"]) == {"dark", "light"}


def test_it_is_checked():
    report = check_samples(Halves(count=100), split="mine", full=100)
    assert report.problems == ["half 99: lost"] and report.lines()[0] == "mine: 100 samples, complete; 1 problem"


def test_a_layout_is_one_line_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "halves.txt").touch()
    layout = Layout(
        parts=("labels",),
        signs="halves.txt",
        is_here=lambda root: (root / "halves.txt").is_file(),
        splits=lambda root: ["train"],
        open=Halves,
    )
    monkeypatch.setitem(layouts.LAYOUTS, "halves", layout)
    assert layouts.detect_format(tmp_path) == "halves" and "halves" in layouts.formats_for("segment")
    assert len(layouts.open_data(tmp_path, "segment", count=7)) == 7
    assert check_data("halves", tmp_path).problems == []
    with pytest.raises(UsageError, match=r"unknown option of the halves layout: size\. Known: count"):
        layouts.open_data(tmp_path, "segment", size=7)
    with pytest.raises(UsageError, match="It looks like halves, which is for segment"):
        layouts.open_data(tmp_path, "depth")
