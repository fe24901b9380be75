"""Predictions on a GPU are those of the CPU, whatever lies where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from tiny_data import write_depth_data, write_refer_data
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.evaluation.evaluate import evaluate
from vpd.files.atomic import read_json_lines
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.inference.run import run_windows
from vpd.optimising import optimise
from vpd.prediction_jobs.job import PredictionJob
from vpd.prediction_jobs.worker import Predictor
from vpd.tasks.model import PerceptionModel

WORDS: dict[str, dict[str, Any]] = {
    "segment": {"scores": True},
    "open": {"scores": True, "classes": ["zebra", "grass"]},
    "refer": {"text": "the dog on the left"},
    "depth": {"scene": "kitchen"},
}
VALUES = {"segment": "scores", "open": "scores", "refer": "probability", "depth": "depth_m"}
Load = Callable[..., PerceptionModel]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def values(predictions: list[Any], name: str) -> list[torch.Tensor]:
    return [getattr(prediction, VALUES[name]).cpu() for prediction in predictions]


@pytest.mark.parametrize("name", WORDS)
def test_predictions_are_those_of_the_cpu(name: str, load: Load) -> None:
    """Several sizes in one call, in batches, and at another size."""
    ours, theirs = load(name), load(name, "cpu")
    pictures = [picture(60, 80), picture(60, 80, 1), picture(97, 40, 2)]
    for options in ({"batch_size": 2}, {"size": 96}):
        found = values(ours.predict(pictures, **options, **WORDS[name]), name)
        wanted = values(theirs.predict(pictures, **options, **WORDS[name]), name)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)


def test_a_budget_of_memory_is_kept(load: Load, device: torch.device) -> None:
    """In windows, where the whole does not fit; what the device allocates is counted where it tells."""
    model, budget = load("segment"), 75_000_000
    is_cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if is_cuda else 0
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    prediction = model.predict(picture(360, 480), size=360, memory=budget)
    if is_cuda:
        assert torch.cuda.max_memory_allocated(device) - before < budget
    assert "windows" in prediction.note and prediction.labels.shape == (360, 480)


@pytest.mark.parametrize("name", WORDS)
def test_a_model_that_moves_predicts_where_it_is(name: str, load: Load, device: torch.device) -> None:
    """Text encoder, prompts and caches come along, or are brought."""
    model, caches = load(name, "cpu"), FrozenCaches(TensorCache(2**24), TensorCache(2**24))
    options = {**WORDS[name], "caches": caches}
    before = values([model.predict(picture(40, 60), **options)], name)
    for place in (device, torch.device("cpu"), device):
        model.to(place)
        assert model.device.type == place.type
        after = values([model.predict(picture(40, 60), **options)], name)
        torch.testing.assert_close(after, before, atol=2e-3, rtol=2e-3)
    assert caches.latents is not None and caches.latents.hits == 3  # kept in main memory


def test_prompts_may_lie_on_the_cpu(load: Load, device: torch.device) -> None:
    model, images = load("refer"), torch.rand(1, 3, 64, 64) * 2 - 1
    prompts = model.example_prompts(1).cpu()
    with model.predicting():
        (found,) = run_windows(model, images, prompts, None)
        wanted = model(images.to(device), prompts.to(device))
    torch.testing.assert_close(found.cpu(), wanted.float().cpu(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["segment", "refer", "depth"])
@torch.no_grad()
def test_fast_features_are_near_and_predictions_whole(name: str, load: Load, device: torch.device) -> None:
    model = load(name)
    fast = optimise(model)
    images = torch.rand(2, 3, 96, 64, device=device) * 2 - 1
    own = model.constant_prompts()
    adapted = model.adapter(model.example_prompts(2).to(device) if own is None else own)
    prepared = fast.read_prompts(None)[1] if own is not None else adapted.to(fast.dtype)
    exact, quick = model.backbone(images, adapted), fast.backbone(images.to(fast.dtype), prepared)
    for one, other in zip(exact.maps, quick.maps, strict=True):
        assert (other.float() - one).norm() / one.norm() < 4e-2
    for size in ((64, 64), (64, 64), (40, 90), (64, 64)):  # the same again, another, the first again
        (answer,) = values([fast.predict(picture(*size), **WORDS[name])], name)
        assert answer.shape[-2:] == size and answer.isfinite().all()


def test_a_small_encoder(load: Load) -> None:
    model = load("segment")
    channels = model.backbone.vae.config.latent_channels
    config = TinyEncoderConfig.for_vae(latent_stride=model.backbone.latent_stride, latent_channels=channels)
    quick = optimise(model, encoder=TinyEncoder(config))
    scores = quick.predict(picture(50, 70), scores=True).scores
    assert scores is not None and scores.isfinite().all()
    assert next(quick.backbone.small_encoder.parameters()).device.type == model.device.type


def test_a_job_writes_files(load: Load, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture(48, 64, number).save(tmp_path / f"photos/{number}.jpg")
    predictor = Predictor(load("segment"), tmp_path / "out", model_name="tiny", options={}, fast={})
    job = PredictionJob([str(tmp_path / "photos")], tmp_path / "out", predictor.origin, batch_size=2)
    assert all(outcome.error is None for outcome in job.run(predictor.run)) and job.finish()
    assert len(read_json_lines(tmp_path / "out/predictions.jsonl")) == 5


@pytest.mark.parametrize(("task", "write"), [("refer", write_refer_data), ("depth", write_depth_data)])
def test_figures_are_those_of_the_cpu(task: str, write: Any, load: Load, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from vpd.datasets.layouts import open_data

    data = open_data(write(tmp_path / "data"), task, split="test" if task == "depth" else "val")
    found, wanted = (evaluate(load(task, place), data)["metrics"] for place in (None, "cpu"))
    assert found == pytest.approx(wanted, abs=2e-3, nan_ok=True)


def test_an_exported_file_comes_back(load: Load, device: torch.device, tmp_path: Path) -> None:
    """Written from a model on the GPU, compared with it, and run on the CPU."""
    report = vpd.export(load("segment"), tmp_path / "exported", target="torch")
    assert max(check.relative_error for check in report.checks) < 1e-4
    network = torch.export.load(tmp_path / "exported/model.pt2").module()
    images = torch.rand(1, 3, 128, 192) * 2 - 1
    with torch.no_grad():
        wanted = load("segment")(images.to(device)).cpu()
    torch.testing.assert_close(network(images), wanted, atol=1e-3, rtol=1e-3)
