"""`vpd eval`: figures on screen and in files, for the three tasks, and every request that cannot be met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tiny_data import write_depth_data, write_refer_data, write_segment_data

Models = dict[str, Path]
Command = Callable[..., Any]


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    write = {"segment": write_segment_data, "refer": write_refer_data, "depth": write_depth_data}
    written = {task: writer(tmp_path_factory.mktemp(f"{task}-data")) for task, writer in write.items()}
    (written["segment"] / "classes.json").write_text('["sky", "tree", "car"]')  # of the model
    return written


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_segmentation(vpd_command: Command, models: Models, data_of: Models, tmp_path: Path):
    fit = ("--fit", "scales=[0.5, 1]", "--fit", "flip=true", "--fit", "size_px=48")
    words = ["eval", "segment", "--data", data_of["segment"], "--model", models["segment"], *fit, "--batch", 2]
    folders = ("--out", tmp_path / "scores.json", "--report", tmp_path / "report", "--predictions", tmp_path / "maps")
    result = vpd_command(*words, *folders)
    assert result.status == 0, result.err
    assert "(folder, val): 3 samples" in result.out
    assert "Images: short side to 48 px, long side at most 2048 px, times 0.5, 1, averaged with" in result.out
    assert "95 % interval" in result.out and "bootstrap over 3 samples" in result.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    low, high = scores["intervals"]["mIoU"]
    assert 0 <= low <= scores["metrics"]["mIoU"] <= high <= 1
    assert (scores["fit"]["scales"], scores["fit"]["flip"], scores["fit"]["size_px"]) == ([0.5, 1.0], True, 48)
    assert scores["settings"]["changes of the fit"] == {"scales": [0.5, 1], "flip": True, "size_px": 48}
    assert json.loads((tmp_path / "report" / "scores.json").read_text()) == scores
    assert [line["file"] for line in lines_of(tmp_path / "maps" / "predictions.jsonl")] == ["0.png", "1.png", "2.png"]
    with (
        Image.open(tmp_path / "maps" / "1.png") as written,
        Image.open(data_of["segment"] / "images/val/1.png") as image,
    ):
        assert written.size == image.size and np.asarray(written).max() < 3


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_fast(
    vpd_command: Command, models: Models, data_of: Models, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vpd.inference.heap.keep_heap", lambda: True)
    words = ["eval", task, "--data", data_of[task], "--model", models[task], "--out", tmp_path / "scores.json"]
    assert vpd_command(*words).status == 0
    slow = json.loads((tmp_path / "scores.json").read_text())
    assert vpd_command(*words, "--fast", "--dtype", "float32").status == 0
    fast = json.loads((tmp_path / "scores.json").read_text())
    assert (slow["settings"]["fast"], fast["settings"]["fast"]) == (False, True)
    for name, value in slow["metrics"].items():
        expected = None if value is None else pytest.approx(value, rel=1e-2, abs=1e-2)
        assert fast["metrics"][name] == expected


def test_referring_counts_every_sentence_of_any_split(
    vpd_command: Command, models: Models, data_of: Models, tmp_path: Path
):
    words = ["eval", "refer", "--data", data_of["refer"], "--model", models["refer"], "--batch", 3]
    result = vpd_command(*words, "--split", "train", "--predictions", tmp_path, "--out", tmp_path / "scores.json")
    assert result.status == 0, result.err
    assert "(refcoco, train): 4 samples" in result.out  # two objects, two sentences each
    assert "oIoU_squashed" in result.out and "as published" in result.out and "size of the images" in result.out
    lines = lines_of(tmp_path / "predictions.jsonl")
    assert [line["text"] for line in lines[:2]] == ["left square", "the square on the left"]
    assert coco.decode(lines[0]["segmentation"]).shape == (60, 80)


def test_depth_in_metres(vpd_command: Command, models: Models, data_of: Models, tmp_path: Path):
    words = ["eval", "depth", "--data", data_of["depth"], "--model", models["depth"]]
    result = vpd_command(*words, "--predictions", tmp_path, "--report", tmp_path / "report")
    assert result.status == 0, result.err
    assert "(nyu, test): 2 samples" in result.out and " m\n" in result.out
    assert "%" not in result.out.replace("95 % interval", "")  # no shares in per cent
    assert "true depth between 0.001 and 10 m, inside the nyu crop" in result.out
    assert (
        "all samples belong to one group" in result.out
        and "No intervals" in (tmp_path / "report/report.html").read_text()
    )
    (line, _) = lines_of(tmp_path / "predictions.jsonl")
    with Image.open(tmp_path / line["file"]) as written:
        assert written.mode == "I;16" and 0 < np.asarray(written).max() <= 10_000


def test_the_first_samples_only(vpd_command: Command, models: Models, data_of: Models):
    result = vpd_command(
        "eval", "segment", "--data", data_of["segment"], "--model", models["segment"], "--limit", 2, "--split", "train"
    )
    assert result.status == 0 and "The first 2 of 6 samples" in result.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fit", "sizes=3"], "Unknown keys of the fit: sizes. Known: mode, size_px, max_long_px, window_px"),
        (["--fit", "flip"], "--fit flip: expected KEY=VALUE, as in --fit flip=true."),
        (["--fit", "scales=[1"], "--fit scales=[1: '[1' is not a YAML value."),
        (["--fit", "window_px=64"], "window_px and stride_px go together"),
        (["--fit", "scales=[99]"], "less than or equal to 8"),
        (["--data", "/nowhere"], "/nowhere: no such folder"),
        (["--format", "nowhere"], "unknown data format 'nowhere'"),
        (["--split", "test"], "no split 'test'"),
        (["--report", "/proc/report"], "/proc/report"),
    ],
)
def test_wrong_requests_get_one_line(
    more: list[str], message: str, vpd_command: Command, models: Models, data_of: Models
):
    words = ["eval", "segment", "--data", data_of["segment"], "--model", models["segment"]]
    result = vpd_command(*words, *more)
    assert result.status == 2 and result.out == ""
    assert message in result.err and "Traceback" not in result.err
    assert len([line for line in result.err.splitlines() if line.startswith("vpd: ")]) == 1


def test_data_must_be_named(vpd_command: Command, models: Models):
    result = vpd_command("eval", "segment", "--model", models["segment"])
    assert result.status == 2 and "--data" in result.err and "Traceback" not in result.err


@pytest.mark.parametrize("option", ["--predictions", "--report"])
def test_nothing_goes_among_the_data(option: str, vpd_command: Command, models: Models, data_of: Models):
    labels = data_of["segment"] / "labels" / "val"
    before = {path: path.read_bytes() for path in labels.iterdir()}
    words = ["eval", "segment", "--data", data_of["segment"], "--model", models["segment"]]
    result = vpd_command(*words, option, labels)
    assert result.status == 2 and "lies in the data folder" in result.err
    assert {path: path.read_bytes() for path in labels.iterdir()} == before


def test_files_of_others_are_not_written_over(vpd_command: Command, models: Models, data_of: Models, tmp_path: Path):
    words = ["eval", "segment", "--data", data_of["segment"], "--model", models["segment"], "--limit", 1]
    own, report, config = tmp_path / "scores.json", tmp_path / "report", tmp_path / "config.json"
    report.mkdir()
    for path in (config, report / "counts.json"):
        path.write_text('{"task": "segment"}')
    for option, given, named in (("--out", config, config), ("--report", report, report / "counts.json")):
        result = vpd_command(*words, option, given)
        assert result.status == 2 and result.out == ""
        assert f"`vpd eval` would write over 1 file that it did not make: {named}. Give another {option}" in result.err
        assert named.read_text() == '{"task": "segment"}'
    (report / "counts.json").unlink()
    own.touch()  # as programs do that hand a name on
    for _ in range(2):  # its own it replaces
        result = vpd_command(*words, "--out", own, "--report", report)
        assert result.status == 0, result.err
    (report / "scores.json").write_text("{}")
    assert vpd_command(*words, "--report", report).status == 2


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_a_model_of_another_task_is_refused(task: str, vpd_command: Command, models: Models, data_of: Models):
    other = "depth" if task == "refer" else "refer"
    result = vpd_command("eval", task, "--data", data_of[task], "--model", models[other])
    assert result.status == 2 and f"is a model for {other}, but {task} was asked for" in result.err


@pytest.mark.parametrize("fault", ["no model", "damaged labels"])
def test_an_evaluation_that_fails_leaves_nothing(
    vpd_command: Command, models: Models, data_of: Models, tmp_path: Path, fault: str
):
    data = tmp_path / "data"
    shutil.copytree(data_of["segment"], data)
    model = models["segment"]
    if fault == "no model":
        model = data
    else:
        for path in data.glob("labels/val/*"):
            path.write_bytes(b"")
    folders = (
        "--out",
        tmp_path / "a" / "scores.json",
        "--report",
        tmp_path / "report",
        "--predictions",
        tmp_path / "b" / "maps",
    )
    result = vpd_command("eval", "segment", "--data", data, "--model", model, *folders)
    assert result.status == 2 and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_groups_by_a_part_of_the_name(vpd_command: Command, models: Models, data_of: Models, tmp_path: Path):
    words = ["eval", "segment", "--data", data_of["segment"], "--model", models["segment"], "--split", "train"]
    result = vpd_command(*words, "--group-by", "([0-2])|3", "--report", tmp_path / "report")
    assert result.status == 0, result.err
    assert "6 groups" not in result.out and "weak" in result.out
    told = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert told["grouped_by"] == told["settings"]["groups by"] == "([0-2])|3"
    for given, said in (("(.*", "no regular expression"), ("[0-9]", "in brackets"), ("(x)", "names are 0, 2, 4")):
        result = vpd_command(*words, "--group-by", given)
        assert result.status == 2 and said in result.err, result.err


def test_presence_is_kept_in_a_folder_of_ones_own(
    vpd_command: Command, models: Models, data_of: Models, tmp_path: Path
):
    for kind in ("refer", "segment"):
        shutil.copytree(models[kind], tmp_path / kind)
    words = ["--split", "train", "--calibrate-presence"]
    result = vpd_command("eval", "refer", "--data", data_of["refer"], "--model", tmp_path / "refer", *words)
    assert result.status == 2 and "two or more pictures" in result.err and "oIoU" in result.out  # the figures are there
    result = vpd_command("eval", "refer", "--data", data_of["refer"], "--model", "world-refer", *words)
    assert result.status == 2 and "no folder of yours" in result.err
    result = vpd_command("eval", "refer", "--data", data_of["refer"], "--model", tmp_path / "refer", *words, "--fast")
    assert result.status == 2 and "leave out --fit, --fast" in result.err
    result = vpd_command("eval", "segment", "--data", data_of["segment"], "--model", tmp_path / "segment", *words)
    assert result.status == 2 and "is for refer" in result.err
