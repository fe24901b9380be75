"""Any number of processes finds identical figures, and none waits for another in vain: as threads, and for real."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vpd
from hand_made import labelled
from tiny_data import CLASSES, write_depth_data, write_refer_data, write_segment_data
from vpd.config import Resize
from vpd.errors import UsageError
from vpd.evaluation.evaluate import Interrupted, evaluate

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    square, short = Resize(mode="squash", size_px=64), Resize(size_px=64)
    made: dict[str, Any] = {
        "segment": vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8, fit=short),
        "refer": vpd.ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=square),
        "depth": vpd.DepthModel.from_diffusion(tiny_diffusion, scenes=["kitchen"], fit=short, **small),
    }
    for task, model in made.items():
        model.save(root / task)
    return root


@pytest.fixture
def segmenter(models: Path) -> Any:
    return vpd.load(models / "segment", device="cpu")


class Processes:
    """Threads that stand for processes: `gather_object` waits until all have come."""

    def __init__(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number, self.rounds = number, {rank: list[list[Any]]() for rank in range(number)}
        self.barrier = threading.Barrier(number, timeout=60)
        monkeypatch.setattr("vpd.evaluation.evaluate.gather_object", self.gather)

    def gather(self, parts: list[Any]) -> list[Any]:
        mine = self.rounds[int(threading.current_thread().name)]
        mine.append(parts)
        self.barrier.wait()
        return [part for rounds in self.rounds.values() for part in rounds[len(mine) - 1]]

    def run(self, work: Any) -> list[Any]:
        """What each process returned or raised."""
        outcomes: dict[int, Any] = {}

        def one(rank: int) -> None:
            try:
                outcomes[rank] = work(SimpleNamespace(process_index=rank, num_processes=self.number))
            except Exception as error:
                outcomes[rank] = error

        threads = [threading.Thread(target=one, args=(rank,), name=str(rank)) for rank in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [outcomes[rank] for rank in range(self.number)]


@pytest.mark.parametrize(("number", "rounds"), [(2, 1), (3, 1), (5, 1), (2, 2), (3, 2)])
def test_any_number_of_processes_finds_the_same(
    number: int, rounds: int, segmenter: Any, monkeypatch: pytest.MonkeyPatch
):
    samples = labelled(7, groups=("a", "a", "b", "c", "c", None, None))
    alone = evaluate(segmenter, samples, batch_size=2)
    if rounds > 1:  # of one batch of each process; there are four
        monkeypatch.setattr("vpd.evaluation.evaluate.ROUND", 1)
    processes = Processes(number, monkeypatch)
    reports = processes.run(lambda accelerator: evaluate(segmenter, samples, batch_size=2, accelerator=accelerator))
    assert all(report == alone for report in reports)
    assert {len(part) for part in processes.rounds.values()} == {rounds}
    shares = [entry.index for part in processes.rounds.values() for (own,) in part for entry in own.entries]
    assert sorted(shares) == list(range(7))  # nothing padded, nothing twice


def test_one_process_that_is_stopped_stops_all(segmenter: Any, monkeypatch: pytest.MonkeyPatch):
    def work(accelerator: Any) -> Any:
        is_first = accelerator.process_index == 0  # the others finish
        return evaluate(segmenter, labelled(6), accelerator=accelerator, should_stop=lambda: is_first)

    assert all(isinstance(outcome, Interrupted) for outcome in Processes(3, monkeypatch).run(work))


def test_all_processes_hear_of_a_bad_sample(segmenter: Any, monkeypatch: pytest.MonkeyPatch):
    samples = labelled(3)
    samples[1] = dataclasses.replace(samples[1], labels=None)
    outcomes = Processes(3, monkeypatch).run(lambda accelerator: evaluate(segmenter, samples, accelerator=accelerator))
    assert [str(outcome) for outcome in outcomes] == [
        "Sample sample-1 has no labels: this data does not fit the model's task."
    ] * 3


@pytest.mark.parametrize("problem", ["sample", "disk", "stop"])
def test_the_others_hear_of_it_long_before_their_end(problem: str, segmenter: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vpd.evaluation.evaluate.ROUND", 2)
    samples, kept = labelled(12), list[str]()
    if problem == "sample":
        samples[1] = dataclasses.replace(samples[1], labels=None)

    def keep(sample: Any, _: Any) -> dict[str, Any]:
        if problem == "disk" and sample.name == "sample-1":
            raise OSError(28, "No space left on device")
        kept.append(sample.name)
        return {}

    def work(accelerator: Any) -> Any:
        is_second = accelerator.process_index == 1
        stop = (lambda: is_second) if problem == "stop" else None
        return evaluate(segmenter, samples, accelerator=accelerator, keep=keep, should_stop=stop)

    outcomes = Processes(2, monkeypatch).run(work)
    kinds = {"sample": UsageError, "disk": OSError, "stop": Interrupted}
    assert [type(outcome) for outcome in outcomes] == [kinds[problem]] * 2
    assert str(outcomes[0]) == str(outcomes[1])
    assert kept == ["sample-0", "sample-2"]  # the first process's one round


def torchrun(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *words]
    paths = [HERE, Path(vpd.__file__).parents[1]]  # the sources that the tests test
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_segment_data(root / "segment")
    write_refer_data(root / "refer")
    write_depth_data(root / "depth")
    return root


@pytest.mark.extras
def test_figures_do_not_depend_on_the_number_of_processes(models: Path, data: Path, tmp_path: Path):
    found = {}
    for processes in (1, 2, 3):
        out = tmp_path / str(processes)
        out.mkdir()
        done = torchrun(processes, HERE / "evaluate_tiny.py", models, data, out)
        assert done.returncode == 0, done.stderr
        found[processes] = [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]
    one = found[1][0]
    assert {task: one[task]["samples"] for task in ("segment", "refer", "depth")} == {
        "segment": 6,
        "refer": 4,
        "depth": 3,
    }
    assert one["stopped"] and one["bad"] == "Sample 5 has no labels: this data does not fit the model's task."
    for reports in found.values():
        for report in reports:
            # NaN is not equal to itself, so compare what is written of it
            assert json.dumps(report) == json.dumps(one)


@pytest.mark.extras
def test_command_line_shares_the_work(models: Path, data: Path, tmp_path: Path):
    words = [
        "-m",
        "vpd",
        "eval",
        "segment",
        "--data",
        data / "segment",
        "--model",
        models / "segment",
        "--split",
        "train",
    ]
    scores, lines, counts = {}, {}, {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        folders = ["--out", out / "scores.json", "--predictions", out / "maps", "--report", out / "report"]
        done = torchrun(processes, *words, *folders, "--device", "cpu")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("6 samples") == 2  # the heading and the intervals, once each
        scores[processes] = json.loads((out / "scores.json").read_text())
        assert scores[processes].pop("settings")["processes"] == processes
        lines[processes] = (out / "maps" / "predictions.jsonl").read_text()
        for index in range(6):
            written = (out / "maps" / f"{index}.png").read_bytes()
            assert written == (tmp_path / "1" / "maps" / f"{index}.png").read_bytes()
        assert (out / "report" / "report.html").is_file()
        counts[processes] = (out / "report" / "counts.json").read_text()
    assert counts[1] == counts[2] and scores[1] == scores[2] and lines[1] == lines[2] and lines[1].count("\n") == 6
