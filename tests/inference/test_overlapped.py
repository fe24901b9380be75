"""Work ahead of its use: order, errors, memory and time with slow and failing readers, networks and writers."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vpd.inference.overlapped import overlapped, threads_for


class Thing:
    """A result that weighs something, and of which it is known when it is gone."""

    def __init__(self, number: int, weight: int = 1) -> None:
        self.number, self.weight = number, weight


def threads_of_ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vpd-ahead")]


def test_what_records_graphs_of_a_thread_stays_in_it() -> None:
    model = SimpleNamespace(device=torch.device("cuda"), is_of_one_thread=True)
    assert threads_for(model).network == 0 < threads_for(model).readers
    model.is_of_one_thread = False
    assert threads_for(model).network > 1


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 4))
        return number * number

    assert list(overlapped(work, range(40), threads=threads)) == [number * number for number in range(40)]
    assert list(overlapped(work, [], threads=threads)) == []
    assert threads_of_ours() == []


def test_without_threads_it_is_the_caller_who_works_and_only_when_asked() -> None:
    at_work: list[tuple[int, threading.Thread]] = []
    results = overlapped(lambda number: at_work.append((number, threading.current_thread())), range(5), threads=0)
    next(results)
    next(results)
    assert at_work == [(0, threading.main_thread()), (1, threading.main_thread())]


def test_it_is_ahead_of_its_use() -> None:
    begun = threading.Semaphore(0)
    results = overlapped(lambda number: begun.release() or number, range(10), threads=2, most_ahead=3)
    next(results)
    for _ in range(3):
        assert begun.acquire(timeout=10), "the next are not begun while the first is used"
    results.close()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_comes_in_its_place(threads: int) -> None:
    def work(number: int) -> int:
        if number in (4, 6):
            raise ValueError(f"{number} is bad")
        time.sleep(0.001)
        return number

    seen = []
    with pytest.raises(ValueError, match="4 is bad"):
        seen.extend(_each(overlapped(work, range(9), threads=threads), seen))
    assert seen == [0, 1, 2, 3]
    assert threads_of_ours() == []


def _each(results: Iterator[int], seen: list[int]) -> list[int]:
    for result in results:
        seen.append(result)
    return []


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_of_the_items_comes_after_what_was_before_it(threads: int) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the list is torn")

    seen: list[int] = []
    with pytest.raises(OSError, match="torn"):
        _each(overlapped(lambda number: number, items(), threads=threads), seen)
    assert seen == [0, 1, 2]


def test_closed_early_nothing_more_is_begun_and_no_thread_is_left() -> None:
    begun, may_end = [], threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            may_end.wait(10)
        return number

    results = overlapped(work, range(100), threads=2, most_ahead=8)
    assert next(results) == 0
    while len(begun) < 3:
        time.sleep(0.001)
    threading.Timer(0.05, may_end.set).start()
    results.close()  # waits for what has begun
    assert begun == [0, 1, 2] and threads_of_ours() == []


def test_a_number_of_results_waits_and_no_more() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    most = 0

    def work(number: int) -> Thing:
        thing = Thing(number)
        alive.add(thing)
        return thing

    for thing in overlapped(work, range(60), threads=3, most_ahead=4):
        time.sleep(0.002)
        most = max(most, len(alive))
        del thing
    gc.collect()
    assert most <= 5 and not alive  # one is in use


@pytest.mark.parametrize("weights", [[10] * 30, [1] * 10 + [60] * 5 + [1] * 10, [150, 1, 1, 150, 1]])
def test_what_waits_weighs_no_more_than_was_said(weights: list[int]) -> None:
    """A heavy one that nobody could foresee is the exception: as many as there are threads may be at work on such."""
    heaviest: list[tuple[int, int]] = []
    waiting, lock = 0, threading.Lock()

    def work(number: int) -> Thing:
        nonlocal waiting
        with lock:
            waiting += weights[number]
            heaviest.append((number, waiting))
        return Thing(number, weights[number])

    for thing in overlapped(work, range(len(weights)), threads=4, cost=lambda thing: thing.weight, most_cost=50):
        time.sleep(0.002)
        with lock:
            waiting -= thing.weight
    assert max(weight for _, weight in heaviest) <= 50 + 4 * max(weights)
    if len(set(weights)) == 1:
        assert max(weight for _, weight in heaviest) <= 50 + weights[0]  # the one in use


def test_networks_run_in_threads_as_they_would_here() -> None:
    def modes(_: int) -> tuple[Any, ...]:
        product = torch.ones(4, 4) @ torch.ones(4, 4, requires_grad=True)
        return product.dtype, product.requires_grad, torch.is_inference_mode_enabled()

    def found() -> list[tuple[Any, ...]]:
        return list(overlapped(modes, range(4), threads=2, device=torch.device("cpu")))

    assert found() == [(torch.float32, True, False)] * 4
    with torch.no_grad():
        assert found() == [(torch.float32, False, False)] * 4
        with torch.autocast("cpu", torch.bfloat16):
            assert found() == [(torch.bfloat16, False, False)] * 4
    with torch.inference_mode():
        assert found() == [(torch.float32, False, True)] * 4


@pytest.mark.extras
@pytest.mark.parametrize(
    ("read_s", "network_s", "write_s"), [(0.05, 0.05, 0.05), (0.02, 0.05, 0.03), (0.3, 0.05, 0.01), (0.01, 0.05, 0.3)]
)
def test_wall_time_is_that_of_the_slowest(read_s: float, network_s: float, write_s: float) -> None:
    """Reading and writing by as many threads as a job has; sleeps, so that a busy machine matters little."""
    number, readers, writers = 60, 8, 8

    def slow(seconds: float) -> Callable[[int], int]:
        def work(item: int) -> int:
            time.sleep(seconds)
            return item

        return work

    read = overlapped(slow(read_s), range(number), threads=readers)
    run = overlapped(slow(network_s), read, threads=0)
    written, first_s, began_s = [], 0.0, time.perf_counter()
    for item in overlapped(slow(write_s), run, threads=writers):
        first_s = first_s or time.perf_counter() - began_s
        written.append(item)
    slowest_s = max(read_s / readers, network_s, write_s / writers) * number
    start_up_s = read_s + network_s + write_s
    assert written == list(range(number))
    assert time.perf_counter() - began_s - start_up_s <= 1.1 * slowest_s
