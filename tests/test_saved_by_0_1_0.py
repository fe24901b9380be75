"""What version 0.1.0 wrote is read as ever: models, a run that was stopped, a folder of predictions.

The files in `saved_by_0_1_0.tar.xz` were made by that version, on tiny random models, and must not be made again. They
are packed because many of them hold the same weights.
"""

from __future__ import annotations

import json
import shutil
import tarfile
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


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked files; do not change them."""
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(Path(__file__).with_name("saved_by_0_1_0.tar.xz")) as packed:
        packed.extractall(folder, filter="data")
    return folder / "saved_by_0_1_0"


def run(*words: object) -> str:
    result = CliRunner().invoke(build_app(), list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("name", "atol"),
    [("segment", 1e-5), ("segment-reference", 5e-3)],  # whose resizing rounds pixels, with more threads to the next one
)
def test_segmentation(saved: Path, name: str, atol: float) -> None:
    scores = vpd.load(saved / "models" / name, device="cpu").predict(saved / "photo.png", scores=True).scores
    np.testing.assert_allclose(scores, answers(saved)[f"{name}.scores"], atol=atol)


@pytest.mark.parametrize(("name", "scene"), [("depth", "kitchen"), ("depth-far", "road")])
def test_depth(saved: Path, name: str, scene: str) -> None:
    depth_m = vpd.load(saved / "models" / name, device="cpu").predict(saved / "photo.png", scene=scene).depth_m
    np.testing.assert_allclose(depth_m, answers(saved)[f"{name}.depth_m"], rtol=1e-5)


def test_referring(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "models" / "refer", tmp_path / "refer")
    clip_tokenizer().save_pretrained(tmp_path / "refer" / "tokenizer")  # 3.6 MB that the package has anyway
    model = vpd.load(tmp_path / "refer", device="cpu")
    probability = model.predict(saved / "photo.png", text="the left one").probability
    np.testing.assert_allclose(probability, answers(saved)["refer.probability"], atol=1e-5)


def test_a_run_goes_on_to_the_same_weights(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "run", tmp_path / "run")
    data = write_segment_data(tmp_path / "data")
    torch.set_num_threads(1)
    run("train", "segment", "--out", tmp_path / "run", "--data", data, "--resume")
    wanted, got = load_file(saved / "run_end.safetensors"), load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name].numpy(), value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_predictions_go_on(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(saved, tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    manifest = Path("predictions/predictions.jsonl")
    line = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**line, "source": str(tmp_path / "saved" / "photo.png")}) + "\n")
    options = ("--model", "models/segment", "--out", "predictions", "--device", "cpu")
    said = run("predict", "segment", "photo.png", *options)
    assert "0 images predicted, 1 were there already" in said


def answers(saved: Path) -> dict[str, np.ndarray]:
    return dict(np.load(saved / "answers.npz"))
