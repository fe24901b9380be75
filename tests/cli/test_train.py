"""`vpd train` and `vpd eval`, from a tiny diffusion model to measured predictions."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tiny import write_tiny_diffusion
from tiny_data import write_segment_data

SMALL = ("-s", "crop_px=64", "-s", "batch_size=2", "-s", "workers=0", "-s", "pictures=0")
HEAD = ("-s", "model_options.head_channels=8")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segment_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def words(diffusion: Path, data: Path, tmp_path: Path) -> list[Any]:
    """A run of two steps."""
    head = ["train", "segment", "--data", data, "--model", diffusion, "--out", tmp_path / "run"]
    return [*head, *SMALL, *HEAD, "-s", "steps=2"]


def test_train_then_eval_then_predict(vpd_command: Any, words: list[Any], data: Path, tmp_path: Path):
    trained = vpd_command(*words)
    model = tmp_path / "run" / "model"
    assert trained.status == 0 and f"Trained: {model}" in trained.out
    measured = vpd_command("eval", "segment", "--data", data, "--model", model, "--out", tmp_path / "scores.json")
    assert measured.status == 0, measured.err
    assert "3 samples" in measured.out and "mIoU" in measured.out and "square" in measured.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["format"], scores["split"], scores["samples"]) == ("folder", "val", 3)
    assert set(scores["per_class"]) == {"left", "right", "square"}
    assert 0 <= scores["metrics"]["mIoU"] <= 1
    picture = data / "images" / "val" / "0.png"
    predicted = vpd_command("predict", "segment", picture, "--model", model, "--out", tmp_path / "out")
    assert predicted.status == 0, predicted.err


def test_what_comes_next_is_measured_on_the_test_split(vpd_command: Any, words: list[Any], data: Path, tmp_path: Path):
    with_test = shutil.copytree(data, tmp_path / "data")
    for kind in ("images", "labels"):
        shutil.copytree(with_test / kind / "val", with_test / kind / "test")
    trained = vpd_command(*words, "--data", with_test, "-s", "trackers=none")
    (line,) = (line for line in trained.out.splitlines() if line.startswith("Measure it: vpd "))
    measured = vpd_command(*shlex.split(line.removeprefix("Measure it: vpd ")))
    assert measured.status == 0 and "(folder, test)" in measured.out
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_run_that_is_there_needs_resume(vpd_command: Any, words: list[Any], tmp_path: Path):
    assert vpd_command(*words).status == 0
    again = vpd_command(*words)
    assert again.status == 2 and "--resume" in again.err and again.err.count("\n") == 1
    assert vpd_command("train", "segment", "--out", tmp_path / "run", "--resume").status == 0


def test_settings_come_from_file_options_and_words(vpd_command: Any, words: list[Any], tmp_path: Path):
    (tmp_path / "my.yaml").write_text("steps: 9\nseed: 5\ndata: {root: /nowhere, validation_split: null}\n")
    assert vpd_command(*words, "--config", tmp_path / "my.yaml").status == 0
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (resolved["steps"], resolved["seed"], resolved["data"]["validation_split"]) == (2, 5, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-s", "lerning_rate=1", "-s", "data.splt=x"], "unknown setting data.splt; did you mean data.split?"),
        (["-s", "data.split=nope"], "no split 'nope'"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--config", "/nowhere.yaml"], "Cannot read the settings /nowhere.yaml"),
        (["--out", "/proc/run"], "/proc/run"),
        (["-s", "zzz=1"], "unknown setting zzz (docs/settings.md has all)"),
        (["-s", "batch_size=3", "-s", "accumulate=2"], "not a multiple of accumulate=2"),
        (["--format", "nyu"], "not the nyu layout"),
    ],
)
def test_wrong_requests_get_one_line_and_status_2(more: list[str], message: str, vpd_command: Any, words: list[Any]):
    result = vpd_command(*words, *more)
    assert result.status == 2
    assert message in result.err and "Traceback" not in result.err
    assert len([line for line in result.err.splitlines() if line.startswith("vpd: ")]) == 1


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_finished_model_takes_no_run(vpd_command: Any, words: list[Any], models: dict[str, Path], more: list[str]):
    before = {path: path.read_bytes() for path in models["depth"].iterdir() if path.is_file()}
    result = vpd_command(*words, "--out", models["depth"], *more)
    assert result.status == 2 and "holds a model (model.safetensors). Remove it, or give another folder." in result.err
    assert {path: path.read_bytes() for path in models["depth"].iterdir() if path.is_file()} == before


def test_nothing_given_says_what_is_missing(vpd_command: Any, tmp_path: Path):
    result = vpd_command("train", "segment", "--out", tmp_path / "run")
    assert result.status == 2 and "model is missing (--model MODEL); data is missing (--data DIR)" in result.err
    assert not (tmp_path / "run").exists()


def test_loss_that_is_no_number_gives_status_1_and_its_batch(vpd_command: Any, words: list[Any], tmp_path: Path):
    result = vpd_command(*words, "-s", "learning_rate=1e30", "-s", "unet_lr_scale=1", "-s", "clip_norm=null")
    assert result.status == 1 and "at step 2, on the samples" in result.err and "--resume" in result.err
    assert list((tmp_path / "run" / "bad-batches" / "step-00000002").glob("*/image-001.png"))
    words = ["train", "segment", "--out", tmp_path / "run", "--resume"]
    assert vpd_command(*words, "-s", "on_bad_loss=skip").status == 0  # it begins anew, and skips that step


def test_too_little_memory_says_what_to_set(vpd_command: Any, words: list[Any], monkeypatch: pytest.MonkeyPatch):
    from vpd.tasks.segmentation import SegmentationModel

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SegmentationModel, "loss_sum", fail)
    result = vpd_command(*words)
    assert result.status == 2 and "-s accumulate=8" in result.err


def test_eval_refuses_what_does_not_fit(vpd_command: Any, models: dict[str, Path], data: Path, tmp_path: Path):
    other_task = vpd_command("eval", "segment", "--data", data, "--model", models["depth"])
    assert other_task.status == 2 and "is a model for depth" in other_task.err
    (tmp_path / "classes.json").write_text(json.dumps(["one"]))
    for kind in ("images", "labels"):
        (tmp_path / kind).symlink_to(data / kind)
    other_classes = vpd_command("eval", "segment", "--data", tmp_path, "--model", models["segment"])
    assert other_classes.status == 2 and "The data: one. The model: sky, tree, car." in other_classes.err
    no_split = vpd_command("eval", "segment", "--data", data, "--model", models["segment"], "--split", "test")
    assert no_split.status == 2 and "no split 'test'" in no_split.err
    no_option = vpd_command("eval", "segment", "--data", data, "--model", models["segment"], "-s", "colour=red")
    assert no_option.status == 2 and "colour" in no_option.err


def test_eval_needs_a_part_that_was_held_out(vpd_command: Any, models: dict[str, Path], data: Path, tmp_path: Path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "train").symlink_to(data / kind / "train")
    (tmp_path / "classes.json").write_text(json.dumps(["sky", "tree", "car"]))
    result = vpd_command("eval", "segment", "--data", tmp_path, "--model", models["segment"])
    assert result.status == 2 and "neither val nor test" in result.err
    measured = vpd_command(
        "eval", "segment", "--data", tmp_path, "--model", models["segment"], "--split", "train", "--limit", 2
    )
    assert measured.status == 0 and "2 samples" in measured.out


@pytest.mark.extras
def test_sigterm_saves_and_a_second_run_goes_on(words: list[Any], tmp_path: Path):
    command = [sys.executable, "-m", "vpd", *(str(word) for word in words), "-s", "steps=300"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 300  # the machine may be busy
    try:
        while not log.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in errors
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) < 300
