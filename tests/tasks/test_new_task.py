"""A task that is not in the package is trained, resumed, measured, predicted and exported by the ordinary functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from normals import NormalsModel, NormalsPrediction
from PIL import Image
from typer.testing import CliRunner

import vpd
from tiny_data import write_depth_data
from vpd.cli import build_app
from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError
from vpd.evaluation.evaluate import evaluate, measure, sample_sheet
from vpd.evaluation.report_folder import write_report
from vpd.inference.plan import Planner
from vpd.inference.resize import fit_image
from vpd.model_folder import MODEL
from vpd.prediction_jobs.job import PredictionJob
from vpd.prediction_jobs.worker import Predictor
from vpd.tasks import table
from vpd.training.run import train


class Ramps(SampleSet):
    """Pictures of walls that lead away, with their depth."""

    scenes = ("room",)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        depth_m = np.tile(np.linspace(1, 2 + index, 72, dtype=np.float32), (64, 1))
        return Sample(f"ramp {index}", (depth_m[..., None].repeat(3, -1) * 40).astype(np.uint8), depth_m=depth_m)


@pytest.fixture(scope="module")
def settings(tiny_diffusion: Path) -> dict[str, Any]:
    watch = {"workers": 0, "trackers": [], "pictures": 1, "validate_every": 2, "checkpoint_every": 2, "keep": 9}
    return {"model": str(tiny_diffusion), "data": {"root": "ramps"}, "steps": 4, "log_every": 1, **watch}


@pytest.fixture(scope="module")
def run(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(NormalsModel, folder, settings, data=(Ramps(), Ramps()))
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> NormalsModel:
    return vpd.load(run / MODEL, device="cpu", task=NormalsModel)


def test_it_trains_and_validates(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4]
    assert all(line["mean_deg"] > 0 for line in lines if line["kind"] == "validation")
    assert list((run / "pictures").iterdir())


def test_it_goes_on_to_the_same_weights(run: Path, settings: dict[str, Any], tmp_path: Path, model: Any) -> None:
    train(NormalsModel, tmp_path / "half", settings, {"steps": 4}, data=(Ramps(), Ramps()))
    last = sorted((tmp_path / "half" / "checkpoints").iterdir())[-1]
    for path in (tmp_path / "half" / MODEL, last):  # as if it had been stopped after the second step
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink()
        path.rmdir()
    train(NormalsModel, tmp_path / "half", resume=True, data=(Ramps(), Ramps()))
    again = vpd.load(tmp_path / "half" / MODEL, device="cpu", task=NormalsModel).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_it_is_measured(model: NormalsModel) -> None:
    report = evaluate(model, Ramps(), batch_size=2)
    assert report["task"] == "normals" and report["samples"] == 4
    assert 0 < report["metrics"]["mean_deg"] < 180 and "mean_deg" in report["intervals"]
    assert sample_sheet(model, Ramps(), count=2).width > 0


def test_it_predicts_pictures_of_any_size(model: NormalsModel, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 81, 3), np.uint8))
    prediction = model.predict(picture)
    assert isinstance(prediction, NormalsPrediction) and prediction.normals.shape == (50, 81, 3)
    assert torch.allclose(prediction.normals.norm(dim=-1), torch.ones(50, 81), atol=1e-5)
    fast = vpd.optimise(model, dtype="float32").predict(picture)
    torch.testing.assert_close(fast.normals, prediction.normals, atol=1e-3, rtol=0)
    picture.save(tmp_path / "a.png")
    predictor = Predictor(model, tmp_path / "out", model_name="mine", options={})
    job = PredictionJob([str(tmp_path / "a.png")], tmp_path / "out", predictor.origin)
    assert [outcome.error for outcome in job.run(predictor.run)] == [None]
    assert job.finish()
    (line,) = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["task"] == "normals" and (tmp_path / "out" / json.loads(line)["data"]).is_file()


@pytest.mark.parametrize("prompts", ["constant", "input"])
def test_it_is_exported(model: NormalsModel, tmp_path: Path, prompts: Any) -> None:
    report = vpd.export(model, tmp_path / "out", target="torch", prompts=prompts)
    assert json.loads((report.folder / "export.json").read_text())["networks"]["model"]["output"] == "normals"
    assert max(check.relative_error for check in report.checks) < 1e-4


def test_others_do_not_know_it(run: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a model for 'normals', which is no task here: known are segment, refer"):
        vpd.load(run / MODEL)
    with pytest.raises(UsageError, match="There is no task 'normals'. Choose one of: segment, refer, depth"):
        train("normals", tmp_path / "run", settings)
    with pytest.raises(UsageError, match="normals has no recipe=reference. Choose one of: default"):
        train(NormalsModel, tmp_path / "run", settings, {"recipe": "reference"}, data=(Ramps(), None))


def test_a_line_in_the_table_is_all_that_the_command_line_needs(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.TASKS, "normals", NormalsModel)
    data = write_depth_data(tmp_path / "data")
    run, out = tmp_path / "run", tmp_path / "out"
    for words in (
        f"train normals --data {data} --model {settings['model']} --out {run} -s steps=1 -s trackers=[] -s workers=0",
        f"eval normals --data {data} --model {run / 'model'} --workers 0 --report {tmp_path / 'report'}",
        f"predict normals {data / 'sync'} --model {run / 'model'} --out {out}",
        f"info {run / 'model'}",
    ):
        result = CliRunner().invoke(build_app(), words.split())
        assert result.exit_code == 0, f"{words}\n{result.output}\n{result.exception}"
    assert "surface normals" in result.output
    assert len((out / "predictions.jsonl").read_text().splitlines()) > 0


@pytest.mark.parametrize("changes", [{"flip": True}, {"scales": (0.5, 1.0), "flip": True}])
def test_mirror_images_and_scales_are_averaged_as_they_lie(
    model: NormalsModel, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (50, 81, 3), np.uint8)
    fit = model.config.fit.model_copy(update={"size_px": 96, **changes})
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"fit": fit}))
    wanted, scales = torch.zeros(3, 50, 81), fit.scales
    with torch.no_grad():
        for scale in scales:
            pixels = fit_image(Image.fromarray(picture), fit, scale)
            both = [model(pixels)[0], model(pixels.flip(-1))[0].flip(-1)]
            wanted += F.interpolate(torch.stack(both).mean(dim=0)[None], (50, 81), mode="bilinear")[0] / len(scales)
    got = model.predict(picture).normals
    torch.testing.assert_close(got, F.normalize(wanted, dim=0).permute(1, 2, 0), atol=1e-4, rtol=0)
    monkeypatch.setattr(Planner, "whole_bytes", lambda *_: 10**15)
    torch.testing.assert_close(model.predict(picture, memory="4GB").normals, got, atol=1e-4, rtol=0)


def test_words_that_a_task_does_not_take(model: NormalsModel) -> None:
    with pytest.raises(UsageError, match="A model for normals takes no text; words that it takes: none"):
        model.predict(np.zeros((8, 8, 3), np.uint8), text="a dog")


def test_its_report_shows_what_it_says(model: NormalsModel, tmp_path: Path):
    """It names no kinds of errors and draws no map of them: the page does without."""
    evaluation = measure(model, Ramps(), diagnose=True)
    told = {"model": "m", "data": "ramps", "format": "own", "split": "all", "settings": {}}
    write_report(tmp_path, {**evaluation.report(), **told}, evaluation, Ramps())
    page = (tmp_path / "report.html").read_text()
    assert "mean_deg of a sample<" in page and "<h2>Failures that differ</h2>" in page
    assert "Kinds of errors" not in page and page.count('alt="truth"') == 4 and 'alt="errors"' not in page
