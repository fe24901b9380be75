"""Outputs that are not numbers make no prediction: the picture is named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hand_made import Samples
from tiny import CLASSES
from vpd import DepthModel, ReferringModel, SegmentationModel
from vpd.config import Resize
from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.evaluation.evaluate import evaluate, sample_sheet
from vpd.exporting.job import compare
from vpd.exporting.networks import image_network
from vpd.inference.outputs import OutputError, checked
from vpd.prediction_jobs.job import PredictionJob
from vpd.prediction_jobs.worker import Predictor

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
WORDS: dict[str, dict[str, Any]] = {"segment": {}, "refer": {"text": "a dog"}, "depth": {}}
NAMES = [(4, "a.png"), (7, "b.png")]


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    """With a weight that is NaN, infinity or makes infinity."""
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    flip = Resize(size_px=64, window_px=64, stride_px=32, flip=True)
    segmenter = SegmentationModel.from_diffusion(
        tiny_diffusion, classes=CLASSES, head_channels=8, fit=Resize(size_px=64, scales=(0.5, 1.0))
    )
    referrer = ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=Resize(size_px=64))
    depther = DepthModel.from_diffusion(tiny_diffusion, scenes=["kitchen"], fit=flip, **small)
    with torch.no_grad():
        segmenter.backbone.unet.conv_in.bias[0] = torch.nan
        referrer.head.classifier.bias[0] = torch.inf
        depther.head.predictor[0].bias.fill_(torch.nan)
    return {"segment": segmenter, "refer": referrer, "depth": depther}


@pytest.mark.parametrize("task", WORDS)
def test_predict_names_the_picture(task: str, models: dict[str, Any]) -> None:
    message = "image 1 of 2: the outputs are not numbers: weights damaged"
    with pytest.raises(OutputError, match=message) as caught:
        models[task].predict([PIXELS, PIXELS], **WORDS[task])
    assert caught.value.number == 0
    assert isinstance(caught.value, UsageError)
    with pytest.raises(OutputError, match="the image: the outputs are not numbers"):
        models[task].predict(PIXELS, memory="2GB", **WORDS[task])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_one_of_a_batch_is_told(value: float) -> None:
    strip = torch.zeros(2, 3, 4, 5)
    assert checked(strip, names=NAMES, dtype=torch.float16) is strip
    strip[1, 2, 3, 4] = value
    with pytest.raises(OutputError, match="b.png: .*or float16 overflows") as caught:
        checked(strip, names=NAMES, dtype=torch.float16)
    assert caught.value.number == 7
    again = pickle.loads(pickle.dumps(caught.value))  # processes tell one another
    assert (str(again), again.number, again.reason) == (str(caught.value), 7, caught.value.reason)


def test_large_numbers_are_numbers() -> None:
    strip = torch.full((2, 3, 4, 5), 3e38)
    assert checked(strip, names=NAMES, dtype=torch.float32) is strip


@pytest.mark.parametrize("task", WORDS)
def test_a_job_skips_the_picture(task: str, models: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    for name in "ab":
        Image.fromarray(PIXELS).save(tmp_path / f"{name}.png")
    predictor = Predictor(models[task], tmp_path / "out", model_name="m", options=WORDS[task])
    job = PredictionJob([str(tmp_path / "*.png")], tmp_path / "out", predictor.origin, batch_size=2)
    errors = [outcome.error for outcome in job.run(predictor.run)]
    told = "the outputs are not numbers: weights damaged, or --dtype overflows"
    assert errors == [f"{tmp_path / name}: {told}" for name in ("a.png", "b.png")]
    assert not list((tmp_path / "out").glob("*.png"))


def test_evaluation_names_the_sample(models: dict[str, Any]) -> None:
    samples = Samples(Sample(f"room {number}", PIXELS, depth_m=np.ones((48, 64), np.float32)) for number in range(2))
    for measure in (
        lambda: evaluate(models["depth"], samples, batch_size=2),
        lambda: sample_sheet(models["depth"], samples, count=1),
    ):
        with pytest.raises(UsageError, match="Sample room 0: the outputs are not numbers"):
            measure()


def test_export_says_that_the_model_is_damaged(models: dict[str, Any]) -> None:
    network = image_network(models["segment"], "constant", target="torch")
    with pytest.raises(OutputError, match="model cannot be exported .*the outputs are not numbers: weights damaged"):
        compare(network, lambda images: torch.zeros(len(images), 3, *images.shape[-2:]), 1e-4)
