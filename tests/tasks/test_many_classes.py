"""More classes than 8 bits hold, from words to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from hand_made import Samples
from vpd import SegmentationModel
from vpd.config import Resize
from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.prediction_jobs.job import PredictionJob
from vpd.prediction_jobs.worker import Predictor
from vpd.tensors import Batch

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
SMALL = {"head_channels": 8, "fit": Resize(size_px=64), "templates": ("a {}",)}


def names(number: int) -> list[str]:
    return [f"thing {index}" for index in range(number)]


def random_prompts(_encoder: object, classes: tuple[str, ...]) -> torch.Tensor:
    return torch.randn(len(classes), 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def many(tiny_diffusion: Path) -> SegmentationModel:
    """Of 300 classes, which sees the last ones everywhere."""
    torch.manual_seed(0)
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=names(300), embed=random_prompts, **SMALL)
    with torch.no_grad():
        model.head.classifier.bias[290:] += 100
    return model.eval()


@pytest.fixture(scope="module")
def open_model(tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=["a"], head="open", **SMALL)
    torch.nn.init.normal_(model.head.bias.weight)
    return model.eval()


@pytest.mark.parametrize(("number", "dtype", "mode"), [(255, torch.uint8, "L"), (256, torch.int32, "I;16")])
def test_type_and_file_at_the_limit(
    number: int, dtype: torch.dtype, mode: str, many: SegmentationModel, tmp_path: Path
):
    classes = names(300)[300 - number :]
    prediction = many.predict(PIXELS, classes=classes, scores=True)
    assert prediction.labels.dtype == dtype
    assert torch.equal(prediction.labels.long(), prediction.scores.argmax(dim=0))
    assert int(prediction.labels.min()) >= number - 10
    prediction.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
        assert np.array_equal(np.asarray(saved), prediction.labels.numpy())


def test_300_words_of_an_open_head(open_model: SegmentationModel, tmp_path: Path) -> None:
    first = torch.bincount(open_model.predict(PIXELS, classes=names(300)).labels.flatten(), minlength=300)
    asked = {"classes": [f"thing {index}" for index in first.argsort(stable=True)]}  # what it sees comes last
    prediction = open_model.predict(PIXELS, **asked, scores=True)
    best = prediction.scores.argmax(dim=0)
    assert int(best.max()) > 255
    assert torch.equal(prediction.labels.long(), best)
    within = open_model.predict(PIXELS, **asked, memory="4GB")
    assert torch.equal(within.labels, prediction.labels)
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    predictor = Predictor(open_model, tmp_path / "out", model_name="m", options={**asked, "memory": "4GB"})
    (outcome,) = PredictionJob([str(tmp_path / "photo.png")], tmp_path / "out", predictor.origin).run(predictor.run)
    assert outcome.line is not None
    counts = torch.bincount(best.flatten(), minlength=300)
    for found in outcome.line["classes"]:
        assert found["name"] == asked["classes"][found["label"]]
        assert found["share"] == pytest.approx(float(counts[found["label"]]) / best.numel(), abs=1e-6)
    with Image.open(tmp_path / "out" / outcome.line["data"]) as saved:
        assert np.array_equal(np.asarray(saved), best.numpy())


def test_a_model_of_300_classes_is_saved_and_drawn(many: SegmentationModel, tmp_path: Path) -> None:
    many.save(tmp_path)
    loaded = vpd.load(tmp_path, device="cpu")
    assert loaded.config.classes == tuple(names(300))
    prediction = loaded.predict(PIXELS)
    assert torch.equal(prediction.labels, many.predict(PIXELS).labels)
    assert prediction.overlay().height > 24
    shown = many.shown(Sample("a", PIXELS, labels=np.zeros((24, 32), np.uint8)), prediction)
    assert {name for _, name in shown.legend} >= {"thing 0"}


def test_labels_that_cannot_hold_the_classes(many: SegmentationModel) -> None:
    message = "There are 300 classes, and labels hold 255"
    samples = Samples([Sample("a", PIXELS, labels=np.zeros((24, 32), np.uint8))])
    batch = Batch(torch.zeros(1, 3, 64, 64), ["a"], labels=torch.zeros(1, 64, 64).long())
    for refused in (
        lambda: many.loss(batch),
        lambda: many.measures(samples),
        lambda: SegmentationModel.begin("world", samples, {"classes": names(300)}),
        lambda: many.go_on(samples, {"classes": names(300)}),
    ):
        with pytest.raises(UsageError, match=message):
            refused()


def test_255_classes_are_trained_and_measured(tiny_diffusion: Path) -> None:
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=names(255), embed=random_prompts, **SMALL).eval()
    labels = torch.full((1, 64, 64), 255)
    labels[0, 0, 0] = 254
    total, weight = model.loss_sum(Batch(torch.zeros(1, 3, 64, 64), ["a"], labels=labels))
    assert (float(weight), bool(total > 0)) == (1, True)
    assert model.measures(Samples()).metrics[""].num_classes == 255
