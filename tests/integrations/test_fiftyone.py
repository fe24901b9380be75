"""Predictions as labels of FiftyOne; `scripts/check_labelling.py fiftyone` runs this where FiftyOne is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpd.errors import UsageError
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction

CLASSES = ("sky", "road", "tree")


def predictions() -> dict[str, Any]:
    """One a task, of a picture of 8x6 px."""
    image = Image.fromarray(np.zeros((6, 8, 3), np.uint8))
    labels = torch.zeros(6, 8, dtype=torch.uint8)
    labels[3:] = 2
    labels[0, 0] = 255  # no class
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[2:5, 4:8] = True
    mask[2, 4] = False
    return {
        "segment": SegmentationPrediction(labels=labels, classes=CLASSES, image=image),
        "refer": MaskPrediction(mask=mask, probability=0.75 * mask.float(), text="a mug", image=image),
        "nothing": MaskPrediction(mask=mask & False, probability=mask.float(), text="a mug", image=image),
        "depth": DepthPrediction(torch.arange(1.0, 49.0).reshape(6, 8) / 10, 10.0, None, image),
    }


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fiftyone", None)
    for prediction in predictions().values():
        with pytest.raises(UsageError, match="needs FiftyOne .* pip install fiftyone"):
            prediction.to_fiftyone()


def test_labels_are_a_segmentation() -> None:
    fiftyone = pytest.importorskip("fiftyone", reason="not installed: fiftyone (scripts/check_labelling.py)")
    label = predictions()["segment"].to_fiftyone()
    assert isinstance(label, fiftyone.Segmentation) and label.mask.dtype == np.uint8
    assert label.mask[0, 0] == 0 and label.mask[0, 1] == 1 and label.mask[5, 0] == 3
    found = label.to_detections(mask_targets=dict(enumerate(CLASSES, 1)))
    boxes = {each.label: [round(float(edge), 3) for edge in each.bounding_box] for each in found.detections}
    assert boxes == {"sky": [0.0, 0.0, 1.0, 0.5], "tree": [0.0, 0.5, 1.0, 0.5]}


def test_expressions_are_detections() -> None:
    fiftyone = pytest.importorskip("fiftyone", reason="not installed: fiftyone (scripts/check_labelling.py)")
    prediction = predictions()["refer"]
    label = prediction.to_fiftyone()
    (found,) = label.detections
    assert isinstance(label, fiftyone.Detections)
    assert (found.label, found.confidence) == ("a mug", 0.75) and found.bounding_box == [0.5, 2 / 6, 0.5, 0.5]
    whole = found.to_segmentation(frame_size=(8, 6), target=255)
    np.testing.assert_array_equal(whole.mask == 255, prediction.numpy())
    assert predictions()["nothing"].to_fiftyone().detections == []


def test_depth_is_a_heatmap() -> None:
    fiftyone = pytest.importorskip("fiftyone", reason="not installed: fiftyone (scripts/check_labelling.py)")
    label = predictions()["depth"].to_fiftyone()
    assert isinstance(label, fiftyone.Heatmap) and label.range == [0.0, 10.0]
    np.testing.assert_array_equal(label.map, predictions()["depth"].numpy())


def test_samples_hold_them(tmp_path: Path) -> None:
    """All of it that needs no database: samples, their labels, and back from JSON."""
    fiftyone = pytest.importorskip("fiftyone", reason="not installed: fiftyone (scripts/check_labelling.py)")
    predictions()["segment"].image.save(tmp_path / "a.png")
    sample = fiftyone.Sample(filepath=tmp_path / "a.png")
    for name, prediction in predictions().items():
        sample[name] = prediction.to_fiftyone()
    again = fiftyone.Sample.from_json(sample.to_json())
    np.testing.assert_array_equal(again["segment"].mask, sample["segment"].mask)
    np.testing.assert_array_equal(again["depth"].map, sample["depth"].map)
    assert again["refer"].detections[0].label == "a mug"


def test_a_data_set_keeps_them(tmp_path: Path) -> None:
    fiftyone = pytest.importorskip("fiftyone", reason="not installed: fiftyone (scripts/check_labelling.py)")
    try:
        dataset = fiftyone.Dataset()
    except Exception as error:  # of several kinds: no program, or none that runs here
        pytest.skip(f"FiftyOne has no database here: {type(error).__name__}")
    predictions()["segment"].image.save(tmp_path / "a.png")
    sample = fiftyone.Sample(filepath=tmp_path / "a.png", prediction=predictions()["segment"].to_fiftyone())
    dataset.add_sample(sample)
    dataset.default_mask_targets = dict(enumerate(CLASSES, 1))
    np.testing.assert_array_equal(dataset.first()["prediction"].mask, predictions()["segment"].to_fiftyone().mask)
    dataset.delete()
