"""However a step is cut into batches and processes, the weights come out the same, for losses that are sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import torchrun

from vpd.training.run import train
from weights import weights

HERE = Path(__file__).parent
TASKS = ("segment", "refer", "depth")


def exact(task: str, settings: dict[str, Any], small_heads: dict[str, Any], data_of: dict[str, Path]) -> dict[str, Any]:
    """Settings under which nothing depends on the cut but the rounding."""
    options = small_heads[task] | {"head_norm": "group"} | ({"dropout": 0.0} if task == "segment" else {})
    changes: dict[str, Any] = {"data": {"root": str(data_of[task]), "validation_split": None}, "model_options": options}
    changes |= {"optimiser": "sgd", "momentum": 0.9, "batch_size": 4, "learning_rate": 0.01, "clip_norm": 1.0}
    return settings | changes | {"steps": 20, "checkpoint_every": 1000, "pictures": 0, "trackers": []}


def assert_same_learning(start: Path, ours: Path, theirs: Path) -> None:
    """Both moved the weights, by far more than they differ."""
    before, one, other = weights(start), weights(ours), weights(theirs)
    moved = torch.cat([(one[name] - before[name]).flatten() for name in one])
    apart = torch.cat([(one[name] - other[name]).flatten() for name in one])
    print(f"moved {moved.norm():.3g} apart {apart.norm():.3g} (at most {apart.abs().max():.3g})")
    assert moved.norm() > 0.01
    assert apart.norm() < 5e-4 * moved.norm()  # float32 noise, which twenty steps amplify


@pytest.mark.parametrize("task", TASKS)
def test_accumulation_in_one_process(task, tmp_path, settings, small_heads, data_of):
    given = exact(task, settings, small_heads, data_of) | {"steps": 3}
    start = train(task, tmp_path / "start", given | {"steps": 1, "learning_rate": 1e-30})
    whole = train(task, tmp_path / "whole", given)
    cut = train(task, tmp_path / "cut", given | {"accumulate": 2})
    assert_same_learning(start, whole, cut)


@pytest.mark.extras
def test_one_process_two_processes_and_accumulation(tmp_path, settings, small_heads, data_of):
    runs: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        given = exact(task, settings, small_heads, data_of)
        runs[f"{task} start"] = given | {"steps": 1, "learning_rate": 1e-30}
        runs[f"{task} whole"] = given
        runs[f"{task} cut"] = given | {"accumulate": 2}
        (tmp_path / f"{task}.yaml").write_text(yaml.safe_dump(given | {"task": task}))
    for name, given in runs.items():
        train(name.split()[0], tmp_path / name, given)
    done = torchrun(2, HERE / "train_all.py", tmp_path)
    assert done.returncode == 0, done.stderr
    for task in TASKS:
        start, whole, cut, two = (tmp_path / f"{task} {name}" / "model" for name in ("start", "whole", "cut", "two"))
        assert_same_learning(start, whole, cut)
        assert_same_learning(start, whole, two)
