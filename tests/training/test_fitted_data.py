"""Data of a run that is looked at before the first step, and again where the run goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy import ToyData, toy_config

from tiny_data import CLASSES, write_segment_data
from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.tasks.depth import DepthModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.fitted_data import fit_data
from vpd.training.run import train


class Named(ToyData):
    """Toy data with other class names."""

    def __init__(self, *classes: str) -> None:
        self.classes = classes


def fit(train_set: Any, validation_set: Any, folder: Path, **changes: Any) -> Any:
    return fit_data(toy_config(**changes), SegmentationModel, (train_set, validation_set), folder)[1]


def test_validation_classes_are_matched_by_name(tmp_path: Path):
    matched = fit(Named("no", "yes"), Named("yes", "no"), tmp_path)
    labels, swapped = np.asarray(ToyData()[0].labels), np.asarray(matched[0].labels)
    assert np.array_equal(swapped, 1 - labels) and matched.classes == ("no", "yes")
    better = fit(Named("no", "yes"), Named("yes", "no"), tmp_path, classes=["wrong", "right"])
    assert np.array_equal(better[0].labels, swapped) and better.classes == ("wrong", "right")
    with pytest.raises(UsageError, match=r"class 'maybe', which is none of the training set's"):
        fit(Named("no", "yes"), Named("maybe", "yes"), tmp_path)
    with pytest.raises(UsageError, match="The data: a, b. The training set: no, yes"):
        fit(Named("no", "yes"), Named("a", "b"), tmp_path)
    with pytest.raises(UsageError, match="in another order, yes, no, but labels are numbers in the data's: no, yes"):
        fit(Named("no", "yes"), None, tmp_path, classes=["yes", "no"])


def test_unreadable_validation_samples_are_found_before_the_start(settings: dict[str, Any], tmp_path: Path):
    root = write_segment_data(tmp_path / "data")
    (root / "labels/val/1.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"Of 3 validation samples .* 1 cannot be used: .*1.png: the file is empty"):
        train("segment", tmp_path / "run", settings | {"data": {"root": str(root)}})
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_classes_and_ignored_values_only(settings: dict[str, Any], tmp_path: Path):
    root = write_segment_data(tmp_path / "data")
    train("segment", tmp_path / "run", settings | {"data": {"root": str(root)}, "steps": 2, "validate_every": 100})
    config, state = tmp_path / "run/config.yaml", tmp_path / "run/checkpoints/step-00000002/state.json"
    config.write_text(config.read_text().replace("steps: 2\n", "steps: 3\n"))
    (tmp_path / "run/model").rename(tmp_path / "model")
    kept = json.loads(state.read_text())
    older = {**kept, "data": {name: kept["data"][name] for name in ("samples", "keys_sha256")}}
    for classes in (CLASSES[::-1], (*CLASSES, "extra")):
        (root / "classes.json").write_text(json.dumps({"classes": classes}))
        for content in (kept, older):  # an older release knew the classes of the model alone
            state.write_text(json.dumps(content))
            with pytest.raises(UsageError, match=rf"data: {', '.join(classes)}\. The run: left, right, square"):
                train("segment", tmp_path / "run", resume=True)
    state.write_text(json.dumps(kept))
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, "ignore_index": 254}))
    for path in (root / "labels").rglob("*.png"):
        values = np.asarray(Image.open(path))
        Image.fromarray(np.where(values == 255, 254, values)).save(path)
    with pytest.raises(UsageError, match=r"\{'ignored': \[255\]\}; now they mean \{'ignored': \[254\]\}"):
        train("segment", tmp_path / "run", resume=True)
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES}))
    with pytest.raises(UsageError, match=r"label 254 at row"):
        train("segment", tmp_path / "run", resume=True)
    assert not (tmp_path / "run/model").exists()


class Far(ToyData):
    """Depth of 5 m, and a share of it where a sensor saw nothing."""

    classes, scenes = (), ("room",)

    def __init__(self, far_m: float) -> None:
        self.far_m = far_m

    def __getitem__(self, index: int) -> Sample:
        depth_m = np.full((8, 8), 5.0, np.float32)
        depth_m[:4] = self.far_m
        return Sample(f"{index}", np.zeros((8, 8, 3), np.uint8), depth_m=depth_m)


def test_depth_beyond_the_range_of_the_model_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        fit_data(toy_config(max_depth_m=10.0), DepthModel, (Far(65.535), None), tmp_path)
        fit_data(toy_config(max_depth_m=70.0), DepthModel, (Far(65.535), None), tmp_path)
    assert len(caplog.messages) == 1 and "50.0 % of the measured pixels" in caplog.text
    with pytest.raises(UsageError, match=r"max_depth_m=4 .* nothing is left to count"):
        fit_data(toy_config(max_depth_m=4.0), DepthModel, (Far(65.535), None), tmp_path)


def test_truth_beyond_the_range_counts_in_the_published_loss_alone(diffusion: Path, small_heads: dict[str, Any]):
    model = DepthModel.from_diffusion(diffusion, scenes=["room"], **small_heads["depth"]).eval()
    batch = DepthModel.example_batch(1, 64)
    inside, _ = model.loss_sum(batch)
    batch.depth_m[..., :32, :] = 65.535
    beyond, _ = model.loss_sum(batch)
    batch.depth_m[..., :32, :] = 0
    unmeasured, _ = model.loss_sum(batch)
    assert torch.equal(beyond, unmeasured) and not torch.equal(beyond, inside)
    batch.depth_m[..., :32, :] = 65.535
    model.config = model.config.model_copy(update={"count_beyond": True})
    counted, _ = model.loss_sum(batch)
    assert counted > beyond
    assert model.config.model_copy(update={"count_beyond": None, "recipe": "reference"}).counts_beyond
    # or what an older release predicted would be taken for the work of another model
    assert "count_beyond" not in model.config.model_copy(update={"count_beyond": None}).model_dump(mode="json")


def test_a_label_that_is_no_class_is_no_index_error(diffusion: Path):
    model = SegmentationModel.from_diffusion(diffusion, classes=("a", "b"), head_channels=8).eval()
    batch = SegmentationModel.example_batch(1, 64)
    batch.labels[0, 3, 3] = 9
    with pytest.raises(UsageError, match="trial.*: a label is outside the 2 classes of the model"):
        model.loss_sum(batch)
