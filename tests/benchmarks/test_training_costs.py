"""The benchmarks of training steps: the ways compute the same, and what is counted grows as it must."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import card_memory
import pytest
import torch
import training_ways
from card_memory import pass_bytes
from torch import nn
from torch.nn import functional

from vpd.config import Task
from vpd.training.settings import resolve_config


@pytest.fixture(scope="module", autouse=True)
def threads_as_they_were() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def measured(way: str) -> dict[str, Any]:
    given = argparse.Namespace(size="tiny", px=64, batch=1, threads=1, steps=1, optimiser="sgd")
    return training_ways.measure(way, given)


def test_ways_take_the_same_steps() -> None:
    """Loss and gradients of ours are those of the reference's way; bfloat16 rounds."""
    reference, exact, half = (measured(way) for way in ("reference", "float32, checkpointing", "bf16, cached latents"))
    for ours, theirs in zip(exact["runs"], reference["runs"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert half["runs"][0]["loss"] == pytest.approx(reference["runs"][0]["loss"], rel=0.05)
    assert exact["trained"] == reference["trained"]
    assert set(half["seconds"]) == {"forward", "backward", "optimiser", "step"}


def config_of(task: Task, **changes: Any) -> Any:
    given = {"model": "random", "data": {"root": "random"}, "batch_size": 1, "epochs": None, "steps": 1, "crop_px": 128}
    return resolve_config(task, given, {"precision": "bf16", **changes})


@pytest.mark.extras
@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_counted_memory(task: Task) -> None:
    (weights, values, two), (_, _, three) = (pass_bytes(config_of(task), "tiny", batch) for batch in (2, 3))
    assert weights > 4 * values  # the autoencoder is frozen
    assert 2 * values < 2 * two - 2 * (three - two)  # gradients at least, in 16 bits
    _, _, recomputing = pass_bytes(config_of(task, gradient_checkpointing=True), "tiny", 2)
    _, trained, head_alone = pass_bytes(config_of(task, mode="head"), "tiny", 2)
    assert head_alone < recomputing < two and trained < values


@pytest.mark.extras
def test_norms_and_softmax_are_counted_in_float32(monkeypatch: pytest.MonkeyPatch):
    narrow = torch.ones(2, 4, 3, 3, dtype=torch.bfloat16)
    norm = nn.GroupNorm(2, 4).bfloat16()
    with card_memory.GpuPrecision():
        assert norm(narrow).dtype == narrow.softmax(dim=-1).dtype == torch.float32
        assert functional.layer_norm(narrow, (3,)).dtype == torch.float32
        assert functional.relu(narrow).dtype == torch.bfloat16
    with_mode = card_memory.pass_bytes(config_of("segment", gradient_checkpointing=True), "tiny", 2)
    monkeypatch.setattr(card_memory, "_IN_FLOAT32", ())
    assert card_memory.pass_bytes(config_of("segment", gradient_checkpointing=True), "tiny", 2)[2] < with_mode[2]


def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--size", "tiny", "--px", "128", "--tasks", "depth", "--modes", "head", "--cards", "0.5", "4", "8"]
    monkeypatch.setattr(sys, "argv", ["card_memory.py", *words])
    card_memory.main()
    *_, last = capsys.readouterr().out.splitlines()
    task, mode, checkpointing, optimiser, *_, none, small, large = (cell.strip() for cell in last.strip("|").split("|"))
    assert (task, mode, checkpointing, optimiser, none) == ("depth, 128 px", "head", "no", "adamw_8bit", "–")
    assert 0 < int(small) < int(large)
