"""Batches ahead of need, and steps that wait for the device once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import Toy, ToyData, losses_of, same, toy_config, train_toy

from vpd.data.batches import SampleStream
from vpd.errors import UsageError
from vpd.processes import find_processes
from vpd.tensors import Batch
from vpd.training import feed as module
from vpd.training.feed import Feed
from vpd.training.run import train
from vpd.training.settings import resolve_config
from vpd.training.setup import build_data, pin_sources, start_model
from vpd.training.step import Stepper
from weights import assert_equal_weights

CPU = torch.device("cpu")
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique2", "_unique2"}
"""Operations whose result, or its size, the host needs: on a GPU each waits for all before it."""


def batch(number: int = 0) -> Batch:
    return Batch(images=torch.full((1, 3, 2, 2), float(number)), names=[str(number)])


class Waits(TorchDispatchMode):
    """Counts operations that wait for the device, and indexing by true and false, which does too.

    Args:
        on_cpu: Tensors that are on the CPU on any machine.
    """

    def __init__(self, on_cpu: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self._on_cpu = {id(tensor) for tensor in on_cpu}
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_truth = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for group in args
            if isinstance(group, (list, tuple))
            for part in group
        )
        if (name in WAITS and id(args[0]) not in self._on_cpu) or by_truth:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "clip_norm": 1.0},
        {"precision": "no", "accumulate": 2, "optimiser": "muon"},
        {"precision": "bf16", "on_bad_loss": "skip", "optimiser": "sgd", "loss": {"kind": "cross_entropy_dice"}},
        {"precision": "bf16", "mode": "head", "loss": {"class_weights": [1, 2, 3]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_a_step_waits_for_the_device_once(
    task: str,
    changes: dict[str, Any],
    session_settings: dict[str, Any],
    data_of: dict[str, Path],
    small_heads: dict[str, dict[str, Any]],
) -> None:
    """For all numbers that the log is told, in one reading."""
    if task != "segment" and "loss" in changes:
        changes = {key: value for key, value in changes.items() if key != "loss"}
    given = session_settings | {"data": {"root": str(data_of[task])}, "model_options": small_heads[task]}
    config = pin_sources(resolve_config(task, given, {"batch_size": 4}, changes))
    train_set, _ = build_data(config)
    model = start_model(config, train_set)
    stepper = Stepper(model, config, find_processes())
    feed = Feed(batches_of(model, config), CPU)
    stepper.take(0, 1e-3, feed)  # makes the optimiser's state
    read: list[int] = []
    original = torch.Tensor.tolist

    def note(tensor: torch.Tensor) -> Any:
        read.append(tensor.numel())
        return original(tensor)

    counts = [state["count"] for state in stepper.optimiser.state.values() if "count" in state]
    with Waits(on_cpu=counts) as waits, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", note)
        stepper.take(1, 1e-3, feed)
    assert read == [4 + config.accumulation]
    assert not waits.found
    with waits:
        float(torch.ones(1))
        torch.ones(2)[torch.tensor([True, False])]
    assert waits.found == {"_local_scalar_dense": 1, "index": 1}  # it can fail


def batches_of(model: Any, config: Any) -> Iterator[Batch]:
    torch.manual_seed(0)
    for _ in count():
        yield model.example_batch(config.batch_size // config.accumulation, config.crop_px)


@pytest.mark.parametrize("is_ahead", [True, False])
def test_the_next_batch_is_drawn_before_the_device_is_waited_for(
    is_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: happened.append("wait") or original(tensor))
    model = Toy()
    stepper = Stepper(model, toy_config(batch_size=2, accumulate=2), find_processes())

    def batches() -> Iterator[Batch]:
        stream = iter(SampleStream(ToyData(), same, seed=0, batch_size=1))
        for number in count():
            happened.append(str(number))
            yield next(stream)

    feed = Feed(batches(), CPU, is_ahead=is_ahead)
    for step in range(2):
        happened.append("step")
        stepper.take(step, 0.1, feed)
    early, late = "step 0 1 2 wait step 3 4 wait", "step 0 1 wait step 2 3 wait"
    assert " ".join(happened) == (early if is_ahead else late)


def test_a_run_ahead_of_need_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after it was stopped, and it reads nothing that it does not train on."""
    plain = train_toy(tmp_path / "plain", accumulate=2, log_every=1)
    monkeypatch.setattr("vpd.training.loop.Feed", lambda batches, device: Feed(batches, device, is_ahead=True))
    drawn: list[int] = []

    class Noted(ToyData):
        def __getitem__(self, index: int) -> Any:
            drawn.append(index)
            return super().__getitem__(index)

    ahead = train_toy(tmp_path / "ahead", data=Noted(), accumulate=2, log_every=1)
    assert torch.equal(plain.conv.weight, ahead.conv.weight) and plain.names == ahead.names
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "ahead")
    assert len(drawn) == 6 * 4


def test_resumed_ahead_of_need(
    session_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = session_settings | {"trackers": [], "pictures": 0, "workers": 1}
    given["data"] = given["data"] | {"validation_split": None}
    train("segment", tmp_path / "plain", given)
    monkeypatch.setattr("vpd.training.loop.Feed", lambda batches, device: Feed(batches, device, is_ahead=True))
    take, begun = Stepper.take, list[int]()

    def end_at_three(stepper: Stepper, step: int, *others: Any) -> Any:
        begun.append(step)
        if step == 3 and len(begun) == 4:
            raise KeyboardInterrupt
        return take(stepper, step, *others)

    monkeypatch.setattr(Stepper, "take", end_at_three)
    with pytest.raises(KeyboardInterrupt):
        train("segment", tmp_path / "ahead", given)
    train("segment", tmp_path / "ahead", resume=True)
    assert begun == [0, 1, 2, 3, 2, 3]
    assert_equal_weights(tmp_path / "plain" / "model", tmp_path / "ahead" / "model")


def test_what_cannot_be_read_is_told_by_the_step_that_needs_it() -> None:
    def batches() -> Iterator[Batch]:
        yield batch(1)
        raise UsageError("None can be read.")

    feed = Feed(batches(), CPU, is_ahead=True)
    assert feed.next().read.names == ["1"]
    feed.ahead()
    with pytest.raises(UsageError, match="None can be read"):
        feed.next()
    with pytest.raises(StopIteration):
        feed.next()


def test_waiting_is_what_the_device_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has work for 5 s: of a batch that takes 2 s it notices nothing, of one that takes 7 s the rest."""
    now_s, done_s = 0.0, 0.0

    def mark() -> float:
        return max(now_s, done_s)  # as an event behind all work

    def batches() -> Iterator[Batch]:
        nonlocal now_s
        for takes_s in (1.0, 2.0, 7.0):
            now_s += takes_s
            yield batch()

    monkeypatch.setattr(module, "_clock", lambda device: (mark, lambda began_s, ended_s: ended_s - began_s))
    feed = Feed(batches(), CPU, is_ahead=True)
    waits = []
    for _ in range(2):
        feed.next()
        done_s = max(now_s, done_s) + 5
        feed.ahead()
        now_s = done_s = max(now_s, done_s)
        waits.append(feed.waited_s())
    assert waits == [1.0, 2.0]


def test_tensors_are_pinned_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch pins where there is a GPU only."""
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(id(tensor)) or tensor)
    original = Batch(images=torch.zeros(1, 3, 2, 2), labels=torch.zeros(1, 2, 2), names=["a"], texts=["b"])
    assert original.pin_memory() == original
    assert pinned == [id(original.images), id(original.labels)]
