"""Settings that the machine decides, and that a run keeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vpd.training.config import TrainConfig
from vpd.training.machine import for_machine
from vpd.training.run import train
from vpd.training.settings import resolve_config

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def config(**changes: Any) -> TrainConfig:
    return resolve_config("segment", {"model": "x", "data": {"root": "x"}, "steps": 9, "epochs": None}, changes)


@pytest.mark.parametrize(
    ("changes", "on_gpu"),
    [
        ({"precision": "bf16"}, True),
        ({"precision": "no"}, False),
        ({"precision": "bf16", "channels_last": False}, False),
        ({"precision": "bf16", "optimiser": "adamw_8bit"}, False),
        ({"precision": "bf16", "sharding": "fsdp", "accumulate": 1}, False),
    ],
    ids=str,
)
def test_gpus_train_in_channels_last_where_it_is_quicker(changes: dict[str, Any], on_gpu: bool) -> None:
    assert for_machine(config(**changes), GPU).channels_last is on_gpu
    assert for_machine(config(**changes), CPU).channels_last is False
    assert for_machine(config(channels_last=True), CPU).channels_last is True


@pytest.mark.parametrize(("cores", "processes", "wanted"), [(1, 1, 1), (2, 1, 1), (6, 1, 5), (16, 1, 8), (16, 4, 3)])
def test_readers_take_the_cores_that_a_gpu_leaves(
    cores: int, processes: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    scenes = config(data={"root": "world"})
    assert [for_machine(given, GPU).workers for given in (config(), scenes)] == [wanted, wanted]
    assert [for_machine(given, CPU).workers for given in (config(), scenes)] == [2, 0]
    assert for_machine(config(workers=0), GPU).workers == 0


def test_a_run_keeps_what_was_decided(session_settings: dict[str, Any], tmp_path: Path) -> None:
    """And goes on by it, as do those of releases that had no such choice."""
    given = session_settings | {"trackers": [], "pictures": 0, "steps": 2, "validate_every": 9}
    train("segment", tmp_path / "run", given)
    path = tmp_path / "run" / "config.yaml"
    kept = yaml.safe_load(path.read_text())
    assert kept["channels_last"] is False and kept["workers"] == 0
    del kept["channels_last"]
    path.write_text(yaml.safe_dump(kept))
    train("segment", tmp_path / "run", {"steps": 3, "channels_last": "auto"}, resume=True)
    assert yaml.safe_load(path.read_text())["channels_last"] is False
