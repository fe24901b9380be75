"""What version 0.1.0 wrote is read as ever: models, a run that was stopped, a folder of predictions.

The files in `saved_by_0_1_0` were made by that version, on tiny random models, and must not be made again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import vpd
from tiny_data import write_segment_data
from vpd.cli import build_app
from vpd.prompts.tokenizer import clip_tokenizer

SAVED = Path(__file__).parent / "saved_by_0_1_0"
PHOTO = SAVED / "photo.png"


def run(*words: object) -> str:
    result = CliRunner().invoke(build_app(), list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("name", "atol"),
    [("segment", 1e-5), ("segment-reference", 5e-3)],  # whose resizing rounds pixels, with more threads to the next one
)
def test_segmentation(name: str, atol: float) -> None:
    scores = vpd.load(SAVED / "models" / name, device="cpu").predict(PHOTO, scores=True).scores
    np.testing.assert_allclose(scores, answers()[f"{name}.scores"], atol=atol)


@pytest.mark.parametrize(("name", "scene"), [("depth", "kitchen"), ("depth-far", "road")])
def test_depth(name: str, scene: str) -> None:
    depth_m = vpd.load(SAVED / "models" / name, device="cpu").predict(PHOTO, scene=scene).depth_m
    np.testing.assert_allclose(depth_m, answers()[f"{name}.depth_m"], rtol=1e-5)


def test_referring(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "models" / "refer", tmp_path / "refer")
    clip_tokenizer().save_pretrained(tmp_path / "refer" / "tokenizer")  # 3.6 MB that the package has anyway
    probability = vpd.load(tmp_path / "refer", device="cpu").predict(PHOTO, text="the left one").probability
    np.testing.assert_allclose(probability, answers()["refer.probability"], atol=1e-5)


def test_a_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "run", tmp_path / "run")
    data = write_segment_data(tmp_path / "data")
    torch.set_num_threads(1)
    run("train", "segment", "--out", tmp_path / "run", "--data", data, "--resume")
    wanted, got = load_file(SAVED / "run_end.safetensors"), load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name].numpy(), value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_predictions_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAVED, tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    manifest = Path("predictions/predictions.jsonl")
    line = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**line, "source": str(tmp_path / "saved" / "photo.png")}) + "\n")
    options = ("--model", "models/segment", "--out", "predictions", "--device", "cpu")
    said = run("predict", "segment", "photo.png", *options)
    assert "0 images predicted, 1 were there already" in said


def answers() -> dict[str, np.ndarray]:
    return dict(np.load(SAVED / "answers.npz"))
