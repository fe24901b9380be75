from __future__ import annotations

import builtins
import logging
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vpd.files.atomic import read_json_lines
from vpd.processes import Heartbeat
from vpd.tensors import Batch
from vpd.training.progress import Costs, Interval, Progress
from vpd.training.step import Step


def progress(folder: Path, *, start_step: int = 0, enabled: bool = True) -> Progress:
    return Progress(folder, steps=10, start_step=start_step, enabled=enabled, show_bar=False)


def test_lines_of_steps_that_run_again_are_forgotten(tmp_path: Path):
    with progress(tmp_path) as shown:
        for step in (1, 2, 3):
            shown.record(step, "train", {"loss": step / 2})
        shown.record(2, "validation", {"mIoU": math.nan})
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    with progress(tmp_path, start_step=2) as shown:
        shown.record(3, "train", {"loss": 9.0})
    assert read_json_lines(tmp_path / "log.jsonl") == [
        {"step": 1, "kind": "train", "loss": 0.5},
        {"step": 2, "kind": "train", "loss": 1.0},
        {"step": 2, "kind": "validation", "mIoU": None},
        {"step": 3, "kind": "train", "loss": 9.0},
    ]


def test_curves_and_pictures_reach_tensorboard(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with progress(tmp_path) as shown:
        shown.record(5, "train", {"loss": 0.25})
        shown.show(5, Image.new("RGB", (30, 20), "red"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(5, 0.25)]
    assert events.Images("validation/samples")[0].width == 30
    with Image.open(tmp_path / "pictures" / "step-00000005.png") as picture:
        assert picture.size == (30, 20)


def test_without_tensorboard_it_is_said_once_and_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    real_import = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with progress(tmp_path / "new") as shown:  # nobody else makes the folder
        shown.record(1, "train", {"loss": 1.0})
        shown.show(1, Image.new("RGB", (3, 2)))
    assert caplog.text.count("TensorBoard is not installed") == 1
    assert len(read_json_lines(tmp_path / "new" / "log.jsonl")) == 1


def test_other_processes_write_nothing(tmp_path: Path):
    with progress(tmp_path, enabled=False) as shown:
        shown.advance(1.0, 0.1, 1.0)
        shown.record(1, "train", {"loss": 1.0})
        shown.show(1, Image.new("RGB", (3, 2)))
    assert list(tmp_path.iterdir()) == []


def test_terminal_shows_loss_rate_and_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(tmp_path, steps=4, start_step=2, enabled=True, show_bar=True) as shown:
        shown.advance(0.5, 1e-4, 1.0)
        shown.record(3, "train", {"loss": 0.5})
        shown.record(3, "validation", {"mIoU": 0.25})
    printed = capsys.readouterr().err
    assert "2/4" in printed and "3/4" in printed and "<" in printed
    assert "loss=0.5000" in printed and "lr=1.00e-04" in printed
    assert "step 3/4 validation: mIoU 0.25" in printed and "train:" not in printed


def test_log_file_gets_lines_instead_of_a_bar(tmp_path, capsys, caplog):
    with (
        caplog.at_level(logging.INFO),
        Progress(tmp_path, steps=4, start_step=2, enabled=True, show_bar=True) as shown,
    ):
        shown.advance(0.5, 1e-4, 1.0)
        shown.record(3, "train", {"loss": 0.5, "learning_rate": 1e-4, "left_s": 4821.0})
    assert capsys.readouterr().err == ""
    assert "step 3/4 train: loss 0.5, learning_rate 0.0001, 1:20:21 left" in caplog.text


def test_time_left_counts_validations_and_checkpoints(tmp_path: Path):
    options: dict[str, Any] = {
        "validate_every": 4,
        "checkpoint_every": 5,
        "costs": Costs(step_s=3.0, validation_s=20.0),
    }
    with Progress(tmp_path, steps=10, start_step=0, enabled=True, show_bar=False, **options) as shown:
        assert shown.left_s(0) == 10 * 3.0 + 3 * 20.0  # after 4, 8 and 10
        for took_s in (9.0, 2.0, 2.0, 2.0):  # the first also starts readers
            shown.advance(1.0, 0.1, took_s)
        shown.validated(30.0)
        shown.saved(1.0)
        assert shown.left_s(4) == 6 * 2.0 + 2 * 30.0 + 2 * 1.0
        assert shown.left_s(10) == 0.0


@pytest.mark.parametrize(("took_s", "told"), [(1.0, ""), (90.0, "took 90.0 s: at this pace, 12:00 for the other 8")])
def test_a_long_run_says_so_after_its_second_step(tmp_path: Path, caplog, took_s: float, told: str):
    with (
        caplog.at_level(logging.INFO),
        Progress(tmp_path, steps=12, start_step=2, enabled=True, show_bar=True) as shown,
    ):
        for _ in range(3):
            shown.advance(1.0, 0.1, took_s)
    assert caplog.text.count("A step took") == bool(told) and told in caplog.text


def test_validation_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr("vpd.processes.SILENCE_S", 0.0)
    with (
        caplog.at_level(logging.INFO),
        Heartbeat(enabled=True) as heartbeat,
        Progress(tmp_path, steps=4, start_step=0, enabled=True, show_bar=True, heartbeat=heartbeat) as shown,
    ):
        for number, _ in enumerate(shown.watch([1, 2, 3], done=2)):
            while number == 2 and "Validating after step 2: 2 of 3" not in caplog.text:
                time.sleep(0.01)


def test_the_heartbeat_ends_and_hides_no_warning(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr("logging.root.handlers", [])  # as in a script that has set up no logging
    with Heartbeat(enabled=True):
        assert "_beat" in str([thread.name for thread in threading.enumerate()])
        logging.getLogger("vpd.files").warning("a picture is odd")
    assert "_beat" not in str([thread.name for thread in threading.enumerate()])
    assert capfd.readouterr().err == "a picture is odd\n"


def test_notes_stand_in_the_log_only(tmp_path: Path):
    with progress(tmp_path) as shown:
        shown.note(2, "skipped", {"loss": math.inf, "samples": ["a"]})
    assert read_json_lines(tmp_path / "log.jsonl") == [{"step": 2, "kind": "skipped", "loss": None, "samples": ["a"]}]


def test_interval_adds_up():
    interval = Interval()
    batch = Batch(images=torch.zeros(4, 3, 8, 8), names=["a", "b", "c", "d"])
    for loss in (1.0, 2.0, math.nan):  # the last one is skipped
        interval.add(Step(loss, norm=1.0, parts=[(batch, loss)], wait_s=1e9))
    assert (interval.mean_loss, interval.steps, interval.samples) == (1.5, 2, 8)
    pace = interval.pace(processes=2)
    assert pace["samples_per_s"] > 0 and pace["wait_share"] > 1
    assert math.isnan(Interval().mean_loss)
