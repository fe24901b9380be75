"""Several processes, as `torchrun` starts them, learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vpd
from vpd.data import open_data
from vpd.evaluation import evaluate
from vpd.files import read_json_lines

HERE = Path(__file__).parent
pytestmark = pytest.mark.extras


def torchrun(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_one_and_two_processes_take_the_same_steps(tmp_path: Path):
    for name, processes, accumulate in (("one", 1, 1), ("two", 2, 1), ("both", 2, 2)):
        done = torchrun(processes, HERE / "train_toy.py", tmp_path / name, accumulate)
        assert done.returncode == 0, done.stderr
    one, two, both = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two", "both"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=0)
        torch.testing.assert_close(both[key], one[key], atol=1e-5, rtol=0)
    losses = [
        [line["loss"] for line in read_json_lines(tmp_path / name / "log.jsonl")] for name in ("one", "two", "both")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and losses[2] == pytest.approx(losses[0], abs=1e-5)


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
    assert shared == pytest.approx(json.loads(json.dumps(alone["metrics"])), abs=1e-4)
