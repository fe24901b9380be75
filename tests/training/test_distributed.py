"""Several processes, as `torchrun` starts them, learn what one process learns."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import descendants, is_running, kill_tree, start_torchrun, torchrun, wait_until

import vpd
from vpd.datasets.layouts import open_data
from vpd.evaluation.evaluate import evaluate
from vpd.files.atomic import read_json_lines
from vpd.training.checkpoints import latest_checkpoint
from weights import assert_equal_weights, weights

HERE = Path(__file__).parent
pytestmark = pytest.mark.extras


def train_toy(folder: Path, processes: int, **settings: Any) -> str:
    """What the processes said."""
    done = torchrun(processes, HERE / "train_toy.py", folder, json.dumps(settings))
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines_of(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in read_json_lines(folder / "log.jsonl") if line["kind"] == kind]


def test_one_and_two_processes_take_the_same_steps(tmp_path: Path):
    for name, processes, accumulate in (("one", 1, 1), ("two", 2, 1), ("both", 2, 2)):
        train_toy(tmp_path / name, processes, accumulate=accumulate)
    one, two, both = (weights(tmp_path / name / "model") for name in ("one", "two", "both"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=0)
        torch.testing.assert_close(both[key], one[key], atol=1e-5, rtol=0)
    losses = [[line["loss"] for line in lines_of(tmp_path / name)] for name in ("one", "two", "both")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and losses[2] == pytest.approx(losses[0], abs=1e-5)


PARTING = """
import atexit, signal, sys
from pathlib import Path
import torch
from torch import distributed, nn

def write(moment):
    threads = sum("pt_gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    Path(sys.argv[1], f"{moment}-{accelerator.process_index}").write_text(f"{distributed.is_initialized()} {threads}")

atexit.register(lambda: write("at the end"))  # called last
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun tells the other at the first that fails
from vpd.errors import UsageError
import vpd.training.step  # as a run does
from vpd.processes import do_on_first, find_processes
accelerator = find_processes()

def refuse():
    raise UsageError("no")

def work():
    model = accelerator.prepare(nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    write("at work")
    ENDING

try:
    work()
except UsageError:
    sys.exit(2)
"""


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(143)", "do_on_first(accelerator, refuse)"])
def test_processes_part_before_python_ends(tmp_path: Path, ending: str):
    """Threads of gloo that free a tensor later than that kill a process whose work is done."""
    (tmp_path / "program.py").write_text(PARTING.replace("ENDING", ending))
    done = torchrun(2, tmp_path / "program.py", tmp_path)
    assert (done.returncode == 0) == (ending == "pass"), done.stderr
    for number in range(2):
        is_together, threads = (tmp_path / f"at work-{number}").read_text().split()
        assert is_together == "True" and int(threads) > 0
        assert (tmp_path / f"at the end-{number}").read_text() == "False 0"


def test_loss_that_is_no_number_in_one_process_stops_all(tmp_path: Path):
    said = train_toy(tmp_path, 2, batch_size=4, bad=[1, [3]])
    assert said.count("The loss is nan at step 3, on the samples sample-") == 2  # each process says the same
    (part,) = (tmp_path / "bad-batches" / "step-00000003").iterdir()
    assert part.name == "process-1-part-0"
    names = json.loads((part / "names.json").read_text())["names"]
    assert f"on the samples {', '.join(names)}." in said
    assert latest_checkpoint(tmp_path / "checkpoints").step == 2


def test_loss_that_is_no_number_in_one_process_is_skipped_by_all(tmp_path: Path):
    train_toy(tmp_path, 2, batch_size=4, bad=[1, [3]], on_bad_loss="skip", keep=9)
    (skipped,) = lines_of(tmp_path, "skipped")
    assert skipped["step"] == 3 and len(skipped["samples"]) == 2
    at = [weights(tmp_path / "checkpoints" / f"step-0000000{step}")["conv.weight"] for step in range(1, 7)]
    assert [torch.equal(one, other) for one, other in pairwise(at)] == [False, True, False, False, False]
    assert all(values.isfinite().all() for values in at)


def test_unreadable_samples_are_replaced_alike_and_counted_together(tmp_path: Path):
    for processes in (1, 2):
        train_toy(tmp_path / str(processes), processes, unreadable=[2, 5], max_bad_share=0.3)
    one, two = (weights(tmp_path / name / "model") for name in ("1", "2"))
    torch.testing.assert_close(two["conv.weight"], one["conv.weight"], atol=1e-5, rtol=0)
    found = [read_json_lines(tmp_path / name / "bad-samples.jsonl") for name in ("1", "2")]
    assert sorted(line["index"] for line in found[0]) == sorted(line["index"] for line in found[1]) == [2, 5]
    said = train_toy(tmp_path / "too many", 2, unreadable=[2, 5])
    assert said.count("2 of the 7 training samples cannot be read so far") == 2  # in both processes


def test_full_disk_is_told_by_all_processes(tmp_path: Path):
    said = train_toy(tmp_path, 2, full_at=3)
    assert said.count("GB are needed for the checkpoint after step 3") == 2
    assert latest_checkpoint(tmp_path / "checkpoints").step == 2


def start_command_line(folder: Path, settings: dict[str, Any]) -> subprocess.Popen[str]:
    """`vpd train segment --resume` on two processes."""
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    words = ("-m", "vpd", "train", "segment", "--config", path, "--out", folder, "--resume")
    return start_torchrun(2, *words, log=folder.with_suffix(".txt"))


def finish(folder: Path, settings: dict[str, Any]) -> None:
    running = start_command_line(folder, settings)
    assert running.wait(600) == 0, folder.with_suffix(".txt").read_text()


def step_of(folder: Path) -> int:
    return max([0, *(line["step"] for line in lines_of(folder))])


@pytest.fixture(scope="module")
def long_run(session_settings: dict[str, Any]) -> dict[str, Any]:
    changes = {"steps": 12, "batch_size": 4, "checkpoint_every": 2, "validate_every": 5, "workers": 1}
    return session_settings | changes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, long_run: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(folder, long_run)
    return folder


def test_killed_processes_go_on_to_the_same_weights(tmp_path: Path, undisturbed: Path, long_run: dict[str, Any]):
    folder = tmp_path / "run"
    for step in (1, 4, 7):
        running = start_command_line(folder, long_run)
        wait_until(lambda step=step: step_of(folder) >= step, "the run does not get going", running=running)
        kill_tree(running)
    finish(folder, long_run)
    assert_equal_weights(undisturbed / "model", folder / "model")
    for kind, name in (("train", "loss"), ("validation", "mIoU")):
        ours, theirs = ([(line["step"], line[name]) for line in lines_of(run, kind)] for run in (folder, undisturbed))
        assert ours == theirs


@pytest.mark.parametrize("target", ["torchrun", "one process"])
def test_sigterm_to_any_of_them_saves_and_ends_all(target: str, tmp_path: Path, undisturbed: Path, long_run):
    folder = tmp_path / "run"
    running = start_command_line(folder, long_run)
    wait_until(lambda: step_of(folder) >= 3, "the run does not get going", running=running)
    workers = [process for process in descendants(running.pid) if is_trainer(process)]
    assert len(workers) == 2
    os.kill(running.pid if target == "torchrun" else workers[1], signal.SIGTERM)
    running.wait(120)
    said = folder.with_suffix(".txt").read_text()
    assert said.count("Stopped after step") == 1 and "[rank" not in said  # tracebacks of the processes begin so
    assert not any(map(is_running, workers))
    latest = latest_checkpoint(folder / "checkpoints")
    assert latest.step == step_of(folder) and not (folder / "model").exists()
    finish(folder, long_run)
    assert_equal_weights(undisturbed / "model", folder / "model")


def test_sigterm_to_one_of_them_during_a_validation_ends_all(tmp_path: Path, undisturbed: Path, long_run):
    folder = tmp_path / "run"
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(long_run | {"workers": 0, "checkpoint_every": 100}))
    done = torchrun(2, HERE / "train_stopping.py", folder, tmp_path / "my.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left with 143") == 2
    assert latest_checkpoint(folder / "checkpoints").step == 5 and not lines_of(folder, "validation")
    finish(folder, long_run)
    assert_equal_weights(undisturbed / "model", folder / "model")
    ours, theirs = ([line["mIoU"] for line in lines_of(run, "validation")] for run in (folder, undisturbed))
    assert ours == theirs


def is_trainer(process: int) -> bool:
    """Whether a process is one of those that train, and not one that reads samples for them."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
    above = Path(f"/proc/{parent}/cmdline").read_bytes()
    return b"train" in words and b"torch.distributed.run" in above


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_command_line_runs_on_two_processes(task, tmp_path, settings, small_heads, data_of):
    changes = {"data": {"root": str(data_of[task])}, "model_options": small_heads[task], "steps": 3, "batch_size": 4}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings | changes))
    words: list[Any] = ["-m", "vpd", "train", task, "--config", tmp_path / "my.yaml", "--out", tmp_path / "run"]
    done = torchrun(2, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained:") == 1
    (last,) = (
        line
        for line in read_json_lines(tmp_path / "run" / "log.jsonl")
        if line["step"] == 3 and line["kind"] == "validation"
    )
    data = open_data(data_of[task], task, split="test" if task == "depth" else "val")
    alone = evaluate(vpd.load(tmp_path / "run" / "model", device="cpu"), data, batch_size=2)
    shared = {name: value for name, value in last.items() if name not in ("step", "kind")}
    known = {name: None if math.isnan(value) else value for name, value in alone["metrics"].items()}  # as a log has it
    assert shared == pytest.approx(known, abs=1e-4)
