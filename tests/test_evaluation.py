"""What is measured, with models whose answers are known."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny import write_tiny_diffusion
from tiny_data import CLASSES, write_depth_data, write_refer_data, write_segment_data
from vpd.config import Fit
from vpd.data import open_data
from vpd.data.samples import Sample
from vpd.errors import UsageError
from vpd.evaluation import evaluate, is_better, sample_sheet
from vpd.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction
from vpd.protocols import check_classes, protocol_of
from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

GREY = Image.new("RGB", (1, 1))


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture
def segmenter(diffusion: Path) -> SegmentationModel:
    return SegmentationModel.from_diffusion(diffusion, classes=CLASSES, head_channels=8, fit=Fit(size_px=64))


@pytest.fixture
def referrer(diffusion: Path) -> ReferringModel:
    return ReferringModel.from_diffusion(diffusion, head_channels=8, token_length=8, fit=Fit(mode="squash", size_px=64))


@pytest.fixture
def depth_model(diffusion: Path) -> DepthModel:
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    fit = Fit(size_px=64, window_px=64, stride_px=32, flip=True)
    return DepthModel.from_diffusion(diffusion, scenes=("kitchen",), max_depth_m=20.0, fit=fit, **small)


class Samples(list[Sample]):
    """Samples made by hand."""

    classes: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()


def image(height: int = 2, width: int = 4) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_segmentation_by_hand(segmenter: SegmentationModel, monkeypatch: pytest.MonkeyPatch):
    truth = [np.array([[0, 0, 1, 255]], np.uint8), np.array([[1, 1]], np.uint8)]
    answers = [torch.tensor([[0, 1, 1, 2]]), torch.tensor([[1, 0]])]

    def predict(images: list[Any], *, batch_size: int) -> list[SegmentationPrediction]:
        assert batch_size == len(images) == 2
        return [SegmentationPrediction(labels=labels, classes=CLASSES, image=GREY) for labels in answers]

    monkeypatch.setattr(segmenter, "predict", predict)
    samples = Samples(Sample(str(number), image(), labels=labels) for number, labels in enumerate(truth))
    report = evaluate(segmenter, samples, batch_size=2)
    assert report["task"] == "segment" and report["samples"] == 2
    assert report["per_class"]["left"]["IoU"] == pytest.approx(1 / 3)
    assert report["per_class"]["right"]["IoU"] == pytest.approx(2 / 4)
    assert math.isnan(report["per_class"]["square"]["IoU"])  # guessed on an ignored pixel only
    assert report["metrics"] == {
        "mIoU": pytest.approx((1 / 3 + 1 / 2) / 2),
        "mAcc": pytest.approx((1 / 2 + 2 / 3) / 2),
        "aAcc": pytest.approx(3 / 5),
    }


def test_referring_at_both_sizes(referrer: ReferringModel, monkeypatch: pytest.MonkeyPatch):
    side = referrer.config.fit.size_px
    mask = np.zeros((side // 2, side), bool)
    mask[:, : side // 4] = True  # squashed: a quarter of the columns, every row

    def predict(images: list[Image.Image], *, text: list[str], batch_size: int) -> list[MaskPrediction]:
        assert text == ["the left one"]
        (picture,) = images
        answer = torch.zeros(picture.height, picture.width, dtype=torch.bool)
        answer[:, : side // 4] = True
        if picture.height == side:
            answer[side // 2 :] = False  # half as good on the square
        return [MaskPrediction(mask=answer, probability=answer.float(), text=text[0], image=GREY)]

    monkeypatch.setattr(referrer, "predict", predict)
    samples = Samples([Sample("a", image(side // 2, side), mask=mask, texts=("the left one", "another"))])
    metrics = evaluate(referrer, samples)["metrics"]
    assert (metrics["oIoU"], metrics["oIoU_squashed"]) == (1.0, 0.5)
    assert (metrics["P@0.9"], metrics["P@0.9_squashed"], metrics["P@0.5_squashed"]) == (1.0, 0.0, 1.0)


def test_depth_of_other_data_counts_the_whole_range(depth_model: DepthModel, monkeypatch: pytest.MonkeyPatch):
    truth = np.array([[0.0, 15.0], [2.0, 25.0]], np.float32)  # not measured; beyond the model's range

    def predict(images: list[Any], *, scene: list[str | None], batch_size: int) -> list[DepthPrediction]:
        assert scene == [None]  # the model does not know an attic
        return [
            DepthPrediction(depth_m=torch.tensor([[1.0, 12.0], [3.0, 1.0]]), max_depth_m=20.0, scene=None, image=GREY)
        ]

    monkeypatch.setattr(depth_model, "predict", predict)
    metrics = evaluate(depth_model, Samples([Sample("a", image(2, 2), depth_m=truth, scene="attic")]))["metrics"]
    assert metrics["rmse"] == pytest.approx(math.sqrt((9 + 1) / 2))
    assert metrics["abs_rel"] == pytest.approx((3 / 15 + 1 / 2) / 2)


def test_nyu_counts_its_crop_and_ten_metres(depth_model: DepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = open_data(write_depth_data(tmp_path), "depth", split="test")

    def predict(images: list[Any], *, scene: list[str | None], batch_size: int) -> list[DepthPrediction]:
        assert scene == ["kitchen"] * len(images)
        answers = [torch.from_numpy(data[number].depth_m.copy()) for number in range(len(data))]
        for answer in answers:
            answer[:45], answer[:, :41] = 99.0, 99.0  # outside the crop
            answer[45:, 41:] += 0.5
        return [DepthPrediction(depth_m=answer, max_depth_m=20.0, scene=None, image=GREY) for answer in answers]

    monkeypatch.setattr(depth_model, "predict", predict)
    metrics = evaluate(depth_model, data, batch_size=8)["metrics"]
    assert metrics["rmse"] == pytest.approx(0.5, abs=1e-6) and metrics["images"] == 2


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_real_models_are_measured_and_shown(task, segmenter, referrer, depth_model, tmp_path):
    model = {"segment": segmenter, "refer": referrer, "depth": depth_model}[task]
    write = {"segment": write_segment_data, "refer": write_refer_data, "depth": write_depth_data}[task]
    data = open_data(write(tmp_path), task, split="test" if task == "depth" else "val")
    model.train()
    whole = evaluate(model, data, batch_size=2)
    assert model.training  # as it was
    assert whole["samples"] == len(data) and all(math.isfinite(value) for value in whole["metrics"].values())
    again = evaluate(model, data, workers=1, watch=list)
    assert again["metrics"] == pytest.approx(whole["metrics"], abs=1e-3)
    assert evaluate(model, data, limit=1)["samples"] == 1
    sheet = sample_sheet(model, data, count=2, caption="two")
    assert sheet.width > 3 * 200 and sheet.height > 2 * 100


def test_truth_must_be_there(segmenter: SegmentationModel, referrer: ReferringModel, depth_model: DepthModel):
    bare = Samples([Sample("bare", image(64, 64))])
    for model, what in ((segmenter, "labels"), (referrer, "expression"), (depth_model, "depth_m")):
        with pytest.raises(UsageError, match=f"Sample bare has no {what}"):
            evaluate(model, bare)
    with pytest.raises(UsageError, match="Sample bare has no mask"):
        evaluate(referrer, Samples([dataclasses.replace(bare[0], texts=("it",))]))


@pytest.mark.parametrize("workers", [0, 1])
def test_sample_that_cannot_be_read_is_named_in_one_line(workers: int, segmenter: SegmentationModel, tmp_path: Path):
    data = open_data(write_segment_data(tmp_path), "segment", split="val")
    (tmp_path / "labels" / "val" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"labels/val/1.png: not an image") as error:
        evaluate(segmenter, data, workers=workers)
    assert "\n" not in str(error.value)


def test_label_outside_the_classes_names_the_sample(segmenter: SegmentationModel):
    samples = Samples([Sample("street-7", image(64, 64), labels=np.full((64, 64), 9, np.uint8))])
    with pytest.raises(UsageError, match=r"Sample street-7: Labels hold classes 9..9"):
        evaluate(segmenter, samples)


def test_classes_of_data_and_model_must_agree(caplog: pytest.LogCaptureFixture):
    check_classes((), ("sky", "road"))
    check_classes(("sky", "road"), ("sky", "road"))
    with pytest.raises(UsageError, match="The data has 3 classes and the model 2: a, b, c and sky, road"):
        check_classes(("a", "b", "c"), ("sky", "road"))
    with pytest.raises(UsageError, match="another order: class 0 is 'road' in the data and 'sky' in the model"):
        check_classes(("road", "sky"), ("sky", "road"))
    with caplog.at_level(logging.WARNING):
        check_classes(("sky", "way"), ("sky", "road"))
    assert "class 1 is 'way' in the data and 'road' in the model" in caplog.text


def test_only_the_three_tasks_can_be_measured(segmenter: SegmentationModel):
    with pytest.raises(TypeError, match="Linear is none of the three task models"):
        protocol_of(torch.nn.Linear(1, 1), Samples())  # type: ignore[arg-type]


def test_better_means_larger_shares_and_smaller_errors():
    assert is_better("segment", 0.5, 0.4) and not is_better("refer", 0.4, 0.5)
    assert is_better("depth", 0.4, 0.5) and not is_better("depth", 0.5, 0.4)
    assert is_better("segment", 0.1, math.nan) and not is_better("depth", math.nan, 0.5)
    assert not is_better("depth", math.nan, math.nan)
