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

from vpd.training import cards


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


@pytest.mark.extras
def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--size", "tiny", "--px", "128", "--tasks", "depth", "--cards", "1.1GB,4GB,8GB"]
    monkeypatch.setattr(sys, "argv", ["card_memory.py", *words])
    monkeypatch.setattr(cards, "WAYS", {"head": {"mode": "head"}})
    card_memory.main()
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "| | | 1.1 GB | 4 GB | 8 GB |" and len(lines) == 7
    verb, way, least, small, large = (cell.strip() for cell in lines[-1].strip("|").split("|"))
    assert (verb, way) == ("depth, train", "head")
    assert int(least) < int(small) < int(large)
