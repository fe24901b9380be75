"""A run that was stopped, by whatever, ends in the same weights as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import descendants, is_running, wait_until

from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.training import run
from vpd.training.run import train
from vpd.training.setup import build_data
from weights import assert_equal_weights

WHY = {"torn": "optimiser.safetensors is missing", "newer": "its format_version is 2"}
Run = Callable[..., Any]


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, session_settings: dict[str, Any]) -> Path:
    """An undisturbed run of four steps with a checkpoint after every second."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train("segment", folder, session_settings)
    return folder


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """The same run as if it had been killed after step 3."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    return folder


@pytest.fixture(scope="module")
def start() -> Run:
    """Starts a run in a process of its own, without importing everything anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vpd.training.run"])

    def start(*arguments: Any, **options: Any) -> Any:
        process = context.Process(target=train, args=arguments, kwargs=options)
        process.start()
        return process

    return start


def test_resumed_run_ends_in_the_same_weights(finished: Path, stopped: Path):
    with (stopped / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "kind": "tr')  # torn
    train("segment", stopped, resume=True)
    assert_equal_weights(finished / "model", stopped / "model")
    assert steps_of(stopped) == [2, 4]
    assert [line["step"] for line in read_json_lines(stopped / "log.jsonl") if line["kind"] == "train"] == [1, 2, 3, 4]


@pytest.mark.parametrize("file", ["model.safetensors", "optimiser.safetensors", "state.json", "config.json"])
def test_torn_checkpoint_is_passed_over(file: str, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "model")
    torn = folder / "checkpoints" / "step-00000004" / file
    torn.write_bytes(torn.read_bytes()[:-100])
    train("segment", folder, resume=True)
    assert "step-00000004 is not used" in caplog.text and file in caplog.text
    assert_equal_weights(finished / "model", folder / "model")


@pytest.mark.parametrize("cause", ["torn", "newer"])
def test_checkpoints_of_which_none_can_be_used_are_neither_removed_nor_passed_over(cause: str, stopped: Path):
    folder = stopped / "checkpoints" / "step-00000002"
    if cause == "torn":
        (folder / "optimiser.safetensors").unlink()
    else:  # of a later release, on a machine with an older one
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(state | {"format_version": 2}))
    with pytest.raises(UsageError, match=rf"none of the checkpoints.*step-00000002: {WHY[cause]}.*remove"):
        train("segment", stopped, resume=True)
    assert (folder / "model.safetensors").is_file()
    shutil.rmtree(stopped / "checkpoints")  # what the message says
    train("segment", stopped, resume=True)


def test_resume_of_a_finished_run_changes_nothing(finished: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert train("segment", folder, resume=True) == folder / "model"
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_resume_without_a_run_starts_one(tmp_path: Path, settings: dict[str, Any]):
    assert train("segment", tmp_path / "run", settings | {"steps": 1}, resume=True).is_dir()


def test_folder_with_a_run_is_refused_without_resume(stopped: Path, settings: dict[str, Any]):
    with pytest.raises(UsageError, match=r"already holds a training run.*--resume"):
        train("segment", stopped, settings)


def test_run_without_a_checkpoint_is_started_anew(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def crash(_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a bug"):
        patch.setattr(run.Training, "run", crash)
        train("segment", tmp_path / "run", settings)
    assert (tmp_path / "run" / "config.yaml").is_file()
    train("segment", tmp_path / "run", settings | {"steps": 1})
    lines = read_json_lines(tmp_path / "run" / "log.jsonl")
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 1), ("measured", 1), ("validation", 1)]


def test_resume_takes_harmless_changes_only(finished: Path, stopped: Path):
    with pytest.raises(UsageError, match=r"batch_size was 2, now 3; data.split was 'train', now 'val'"):
        train("segment", stopped, {"batch_size": 3, "data": {"split": "val"}}, resume=True)
    train("segment", stopped, {"checkpoint_every": 1, "keep": 1, "workers": 1}, resume=True)
    assert_equal_weights(finished / "model", stopped / "model")
    assert yaml.safe_load((stopped / "config.yaml").read_text())["checkpoint_every"] == 1


def test_resume_needs_neither_the_starting_model(finished: Path, stopped: Path):
    path = stopped / "config.yaml"
    path.write_text(path.read_text().replace(yaml.safe_load(path.read_text())["model"], "/gone"))
    train("segment", stopped, resume=True)
    assert_equal_weights(finished / "model", stopped / "model")


def test_sigterm_saves_and_leaves_with_143(start: Run, tmp_path: Path, settings: dict[str, Any]):
    folder = tmp_path / "run"
    never = {"checkpoint_every": 1000, "validate_every": 1000}
    process = start("segment", folder, settings | {"steps": 400, "workers": 2} | never)
    wait_for_step(folder, 3)
    readers = descendants(process.pid)
    assert len(readers) == 3  # with the server that they come from
    for number in (*readers, process.pid):  # as a terminal or SLURM tells all processes
        os.kill(number, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    (step,) = steps_of(folder)
    assert 3 <= step < 400
    assert not (folder / "model").exists()
    wait_until(lambda: not any(map(is_running, readers)), "a reader outlives its process")


def is_under_way() -> bool:
    """Whether a run takes steps and validates, rather than looking at its data before the first step."""
    return signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


class Stopping(SampleSet):
    """Validation samples; the process gets SIGTERM while a run that is under way reads the second one at first."""

    def __init__(self, samples: SampleSet) -> None:
        self.samples, self.classes, self.reads = samples, samples.classes, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.reads += is_under_way()
        if self.reads == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.samples[index]


@pytest.mark.parametrize("validate_every", [2, 4])
def test_sigterm_during_a_validation_saves_and_measures_after_the_resume(
    validate_every: int, finished: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Also in the validation of the last step."""
    settings = settings | {"validate_every": validate_every, "batch_size": 2, "checkpoint_every": 100}
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run, "build_data", lambda config: (build_data(config)[0], Stopping(build_data(config)[1])))
        with pytest.raises(SystemExit) as error:
            train("segment", folder, settings | {"validate_limit": None})
    assert error.value.code == 143
    assert steps_of(folder) == [validate_every] and not (folder / "model").exists()
    state = folder / "checkpoints" / f"step-{validate_every:08d}" / "state.json"
    assert json.loads(state.read_text())["scores"] == {}
    train("segment", folder, resume=True)
    assert_equal_weights(last_of(finished), last_of(folder))
    assert validations(folder) == [entry for entry in validations(finished) if entry[0] % validate_every == 0]
    assert json.loads(state.read_text())["scores"]["mIoU"] == validations(folder)[0][1]


def last_of(folder: Path) -> Path:
    """The model of a run's last step, whichever is the best."""
    return folder / ("last" if (folder / "last").exists() else "model")


def validations(folder: Path) -> list[tuple[int, float]]:
    return [
        (line["step"], line["mIoU"]) for line in read_json_lines(folder / "log.jsonl") if line["kind"] == "validation"
    ]


def test_unreadable_validation_sample_does_not_lose_the_steps(
    finished: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    class Torn(Stopping):
        def __getitem__(self, index: int) -> Sample:
            if is_under_way():
                raise UsageError("1.png: the file is empty")
            return self.samples[index]

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run, "build_data", lambda config: (build_data(config)[0], Torn(build_data(config)[1])))
        with pytest.raises(UsageError, match="the file is empty"):
            train("segment", folder, settings | {"checkpoint_every": 100})
    assert steps_of(folder) == [2]
    train("segment", folder, resume=True)
    assert validations(folder) == validations(finished)


def kill_until_done(start: Run, task: str, folder: Path, settings: dict[str, Any], *, kills: int) -> None:
    """Kill a run again and again: every third time while it starts, else at a random moment of its work."""
    moments = random.Random(0)
    for number in range(kills):
        done = max([0, *(line["step"] for line in read_json_lines(folder / "log.jsonl"))])
        process = start(task, folder, settings, resume=True)
        if number % 3:
            wait_for_step(folder, min(done + 1, settings["steps"]))
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.join()
    last = start(task, folder, settings, resume=True)
    last.join()
    assert last.exitcode == 0


def test_killed_run_ends_in_the_same_weights(start: Run, tmp_path: Path, settings: dict[str, Any]):
    settings = settings | {"steps": 12, "checkpoint_every": 1, "validate_every": 5, "batch_size": 4, "accumulate": 2}
    undisturbed = start("segment", tmp_path / "undisturbed", settings)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    kill_until_done(start, "segment", tmp_path / "killed", settings, kills=3)
    assert_equal_weights(tmp_path / "undisturbed" / "model", tmp_path / "killed" / "model")
    log = [read_json_lines(tmp_path / name / "log.jsonl") for name in ("undisturbed", "killed")]
    losses = [[(line["step"], line["loss"]) for line in lines if line["kind"] == "train"] for lines in log]
    assert losses[0] == losses[1]


@pytest.mark.extras
@pytest.mark.parametrize(("task", "kills"), [("segment", 20), ("refer", 6), ("depth", 6)])
def test_run_killed_many_times_ends_in_the_same_weights(task, kills, start, tmp_path, settings, small_heads, data_of):
    settings = settings | {"data": {"root": str(data_of[task])}, "model_options": small_heads[task], "workers": 1}
    settings |= {"steps": 40, "checkpoint_every": 2, "validate_every": 7}
    undisturbed = start(task, tmp_path / "undisturbed", settings)
    undisturbed.join()
    kill_until_done(start, task, tmp_path / "killed", settings, kills=kills)
    assert_equal_weights(tmp_path / "undisturbed" / "model", tmp_path / "killed" / "model")


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not any(line["step"] >= step for line in read_json_lines(folder / "log.jsonl")):
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.05)
