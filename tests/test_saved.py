"""What any release wrote is read as ever: models, a run that was stopped, a folder of predictions.

`saved_by_X_Y_Z.tar.xz` were made by these releases, on tiny random models, and must not be made again; `make_saved.py`
makes the next. They are packed because many of their files hold the same weights.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import vpd
from make_saved import answers, write_saved
from tiny_data import write_segment_data
from vpd import model_folder
from vpd.cli import build_app
from vpd.errors import UsageError

HERE = Path(__file__).parent
RELEASES = sorted(path.name.removesuffix(".tar.xz") for path in HERE.glob("saved_by_*.tar.xz"))
ATOL = {"segment-reference.scores": 5e-3}  # its resizing rounds pixels, with more threads to the next one


@pytest.fixture(scope="module", params=[*RELEASES, pytest.param("this release", marks=pytest.mark.extras)])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked files; do not change them."""
    folder = tmp_path_factory.mktemp("saved")
    if request.param == "this release":
        write_saved(folder / "saved")
        return folder / "saved"
    with tarfile.open(HERE / f"{request.param}.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder / request.param


def test_there_are_some() -> None:
    assert "saved_by_0_1_0" in RELEASES


def run(*words: object) -> str:
    result = CliRunner().invoke(build_app(), list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def test_models_answer_as_they_did(saved: Path) -> None:
    wanted, got = dict(np.load(saved / "answers.npz")), answers(saved)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=5e-5, atol=ATOL.get(name, 1e-5), err_msg=name)


def test_a_run_goes_on_to_the_same_weights(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "run", tmp_path / "run")
    data = write_segment_data(tmp_path / "data")
    torch.set_num_threads(1)
    run("train", "segment", "--out", tmp_path / "run", "--data", data, "--resume")
    wanted, got = load_file(saved / "run_end.safetensors"), load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        # before a norm a bias has no gradient but rounding, of which AdamW makes two whole steps of 1e-3
        atol = 4e-3 if re.fullmatch(r"head\.outputs\.\d+\.bias", name) else 1e-5
        np.testing.assert_allclose(got[name].numpy(), value.numpy(), rtol=1e-4, atol=atol, err_msg=name)


def test_predictions_go_on(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(saved, tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    manifest = Path("predictions/predictions.jsonl")
    line = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**line, "source": str(tmp_path / "saved" / "photo.png")}) + "\n")
    options = ("--model", "models/segment", "--out", "predictions", "--device", "cpu")
    said = run("predict", "segment", "photo.png", *options)
    assert "0 images predicted, 1 were there already" in said


def test_a_later_format_reads_the_earlier_ones(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `classes` had been called `names` in format 1, and the release that changed it had added a step."""
    segment = json.loads((saved / "models" / "segment" / "config.json").read_text())
    earlier = {("names" if key == "classes" else key): value for key, value in segment.items()}

    def step(contents: dict) -> dict:
        return {("classes" if key == "names" else key): value for key, value in contents.items()}

    shutil.copytree(saved / "models" / "segment", tmp_path / "model")
    monkeypatch.setattr(model_folder, "FORMAT_VERSION", 2)
    monkeypatch.setitem(model_folder.UPGRADES, 1, step)
    for version, config in ((1, earlier), (2, segment)):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"format_version": version}))
        assert vpd.load(tmp_path / "model", device="cpu").config.classes == ("sky", "tree", "car")
    for version in (0, 3):
        (tmp_path / "model" / "config.json").write_text(json.dumps(segment | {"format_version": version}))
        with pytest.raises(UsageError, match=f"format version {version}; this vpd reads 1 to 2. Update vpd."):
            vpd.load(tmp_path / "model", device="cpu")


def test_every_format_has_a_step_and_files() -> None:
    assert set(model_folder.UPGRADES) == set(range(1, model_folder.FORMAT_VERSION))
    found = set()
    for release in RELEASES:
        with tarfile.open(HERE / f"{release}.tar.xz") as packed:
            config = packed.extractfile(f"{release}/models/segment/config.json")
            assert config is not None
            found.add(json.load(config)["format_version"])
    assert found >= set(range(1, model_folder.FORMAT_VERSION)), "see make_saved.py"
