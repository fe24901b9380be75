"""What is measured, with models whose answers are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hand_made import Samples, labelled
from tiny_data import CLASSES, write_depth_data, write_refer_data, write_segment_data
from vpd.config import Resize
from vpd.data.sample import CountedDepth, Sample
from vpd.datasets.layouts import open_data
from vpd.errors import UsageError
from vpd.evaluation.evaluate import Interrupted, evaluate, is_better, measure, sample_sheet
from vpd.tasks.depth import DepthModel
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

GREY = Image.new("RGB", (1, 1))


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    windows = Resize(size_px=64, window_px=64, stride_px=32, flip=True)
    return {
        "segment": SegmentationModel.from_diffusion(
            tiny_diffusion, classes=CLASSES, head_channels=8, fit=Resize(size_px=64)
        ),
        "refer": ReferringModel.from_diffusion(
            tiny_diffusion, head_channels=8, token_length=8, fit=Resize(mode="squash", size_px=64)
        ),
        "depth": DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), max_depth_m=20.0, fit=windows, **small),
    }


def image(height: int = 2, width: int = 4) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_segmentation_by_hand(segmenter: SegmentationModel, monkeypatch: pytest.MonkeyPatch):
    truth = [np.array([[0, 0, 1, 255]], np.uint8), np.array([[1, 1]], np.uint8)]
    answers = [torch.tensor([[0, 1, 1, 2]]), torch.tensor([[1, 0]])]

    def predict(images: list[Any], *, batch_size: int, **_: Any) -> list[SegmentationPrediction]:
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

    def predict(images: list[Image.Image], *, text: list[str], **_: Any) -> Any:
        assert text == ["the left one"]
        (picture,) = images
        answer = torch.zeros(picture.height, picture.width, dtype=torch.bool)
        answer[:, : side // 4] = True
        square = torch.zeros(side, side, dtype=torch.bool)
        square[: side // 2, : side // 4] = True  # half as good on the square
        told = {"mask": answer, "probability": answer.float(), "text": text[0], "image": GREY}
        return [MaskPrediction(**told, fitted_mask=square)]

    monkeypatch.setattr(referrer, "predict", predict)
    samples = Samples([Sample("a", image(side // 2, side), mask=mask, texts=("the left one", "another"))])
    report = evaluate(referrer, samples)
    metrics = report["metrics"]
    assert (metrics["oIoU"], metrics["oIoU_squashed"]) == (1.0, 0.5)
    assert (metrics["P@0.9"], metrics["P@0.9_squashed"], metrics["P@0.5_squashed"]) == (1.0, 0.0, 1.0)
    assert "size of the images" in report["protocol"][""]
    assert "squashed to 64x64 px, as published" in report["protocol"]["_squashed"]


def test_depth_of_other_data_counts_the_whole_range(depth_model: DepthModel, monkeypatch: pytest.MonkeyPatch):
    truth = np.array([[0.0, 15.0], [2.0, 25.0]], np.float32)  # not measured; beyond the model's range

    def predict(images: list[Any], *, scene: list[str | None], **_: Any) -> list[DepthPrediction]:
        assert scene == [None]  # the model does not know an attic
        return [
            DepthPrediction(depth_m=torch.tensor([[1.0, 12.0], [3.0, 1.0]]), max_depth_m=20.0, scene=None, image=GREY)
        ]

    monkeypatch.setattr(depth_model, "predict", predict)
    metrics = evaluate(depth_model, Samples([Sample("a", image(2, 2), depth_m=truth, scene="attic")]))["metrics"]
    assert metrics["rmse"] == pytest.approx(math.sqrt((9 + 1) / 2))
    assert metrics["abs_rel"] == pytest.approx((3 / 15 + 1 / 2) / 2)


def test_a_data_set_says_which_depth_counts(depth_model: DepthModel, monkeypatch: pytest.MonkeyPatch):
    truth = np.full((100, 100), 4.0, np.float32)
    truth[:40], truth[50] = 6.0, 0.4  # above the crop; nearer than what counts
    answer = torch.full((100, 100), 5.0)
    prediction = DepthPrediction(depth_m=answer, max_depth_m=20.0, scene=None, image=GREY)
    monkeypatch.setattr(depth_model, "predict", lambda images, **_: [prediction])
    samples = Samples([Sample("a", image(100, 100), depth_m=truth)])
    samples.counted = CountedDepth(min_depth_m=0.5, max_depth_m=5.0, crop="garg")
    report = evaluate(depth_model, samples)
    assert report["metrics"]["rmse"] == 1.0
    assert report["protocol"][""].endswith("true depth between 0.5 and 5 m, inside the garg crop")


def test_a_map_that_no_crop_fits_names_the_sample(depth_model: DepthModel):
    samples = Samples([Sample("small", image(40, 64), depth_m=np.ones((40, 64), np.float32))])
    samples.counted = CountedDepth(crop="nyu")
    with pytest.raises(UsageError, match="Sample small: Nothing is left of a 40x64 map in crop 'nyu'"):
        evaluate(depth_model, samples)


def test_nyu_counts_its_crop_and_ten_metres(depth_model: DepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = open_data(write_depth_data(tmp_path), "depth", split="test")

    def predict(images: list[Any], *, scene: list[str | None], **_: Any) -> list[DepthPrediction]:
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
    counted = {name: value for name, value in whole["metrics"].items() if not name.endswith("_edges")}
    assert whole["samples"] == len(data) and all(math.isfinite(value) for value in counted.values())
    if task == "depth":  # a slope has no edges, and where none are nothing is told of them
        near = {name: value for name, value in whole["metrics"].items() if name not in counted}
        assert near.pop("images_edges") == 0 and near and all(map(math.isnan, near.values()))
    again = evaluate(model, data, workers=1, watch=list)
    assert again["metrics"] == pytest.approx(whole["metrics"], abs=1e-3, nan_ok=True)
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
    with pytest.raises(UsageError, match=r"street-7: label 9 at row 0, column 0 is outside the class list"):
        evaluate(segmenter, samples)


def test_groups_are_counted_and_drawn(segmenter: SegmentationModel):
    samples = labelled(6, groups=("kitchen", "kitchen", "office", "office", None, None))
    report = evaluate(segmenter, samples, batch_size=3)
    assert report["groups"] == 4
    assert set(report["intervals"]) == set(report["metrics"]) == {"mIoU", "mAcc", "aAcc"}
    for name, (low, high) in report["intervals"].items():
        assert low <= report["metrics"][name] <= high
    assert report["intervals"]["aAcc"][0] < report["intervals"]["aAcc"][1]
    one_room = labelled(3, groups=("kitchen",) * 3)
    report = evaluate(segmenter, one_room)
    assert report["intervals"] == {} and report["groups"] == 1


def test_every_sample_stands_once_in_the_table_with_its_own_score(segmenter: SegmentationModel):
    samples = labelled(5)
    evaluation = measure(segmenter, samples, batch_size=2, limit=4, workers=1)
    assert [entry.index for entry in evaluation.table] == [0, 1, 2, 3]
    assert [entry.name for entry in evaluation.table] == [sample.name for sample in samples[:4]]
    report = evaluation.report()
    assert (report["samples"], report["available"]) == (4, 5)
    for number, score in enumerate(evaluation.scores()):
        alone = evaluate(segmenter, Samples(samples[number : number + 1]))["metrics"]
        assert score == pytest.approx(alone, nan_ok=True)
    assert sum(row["share"] for row in report["per_class"].values()) == pytest.approx(1)


def test_predictions_can_be_kept(segmenter: SegmentationModel):
    evaluation = measure(
        segmenter, labelled(3), keep=lambda sample, prediction: {sample.name: tuple(prediction.labels.shape)}
    )
    assert [entry.record for entry in evaluation.table] == [{f"sample-{number}": (64, 64)} for number in range(3)]


def test_an_empty_split_is_an_error(segmenter: SegmentationModel):
    with pytest.raises(UsageError, match="no sample to measure on: the data has 0, and limit is None"):
        evaluate(segmenter, Samples())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "the data has 1, and limit is 0"),
        ({"limit": -1}, "limit is -1"),
        ({"batch_size": 0}, "batch_size=0: give 1 or more"),
        ({"batch_size": -2}, "batch_size=-2"),
    ],
)
def test_numbers_below_one_are_errors(options: dict[str, int], message: str, segmenter: SegmentationModel):
    with pytest.raises(UsageError, match=message):
        measure(segmenter, labelled(1), **options)


def test_an_evaluation_can_be_stopped_between_batches(segmenter: SegmentationModel):
    asked = []

    def should_stop() -> bool:
        asked.append(len(asked))
        return len(asked) > 2

    seen: list[str] = []
    with pytest.raises(Interrupted):
        measure(segmenter, labelled(5), should_stop=should_stop, keep=lambda sample, _: {"": seen.append(sample.name)})
    assert seen == ["sample-0", "sample-1"]
    assert measure(segmenter, labelled(1), should_stop=lambda: False).report()["samples"] == 1


def test_better_means_larger_shares_and_smaller_errors():
    assert is_better(SegmentationModel, 0.5, 0.4) and not is_better(ReferringModel, 0.4, 0.5)
    assert is_better(DepthModel, 0.4, 0.5) and not is_better(DepthModel, 0.5, 0.4)
    assert is_better(SegmentationModel, 0.1, math.nan) and not is_better(DepthModel, math.nan, 0.5)
    assert not is_better(DepthModel, math.nan, math.nan)
