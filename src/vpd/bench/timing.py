"""Seconds of work on a device: of a GPU by events on its own clock, after as many runs as it takes to settle."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch

from vpd.bench.machine import now, peak_bytes, since

LEAST_SECONDS = 0.1
"""On a CPU shorter runs are repeated until they take as long, or the clock would be what is measured."""
LEAST_RUNS, ENOUGH_SECONDS = 20, 1.0
"""On a GPU: so many runs are timed, or as many as fit into this time where that is fewer."""
_STABLE, _MOST_WARM_UPS, _WARM_UP_SECONDS = 0.03, 20, 5.0
_FEWEST_WARM_UPS = 3  # kernels are chosen, graphs recorded


class Event(Protocol):
    """A mark in the work of a device, as `torch.cuda.Event`."""

    def record(self) -> None:
        """Put the mark behind the work that was given to the device so far."""

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds from this mark to a later one."""


def time_runs(
    run: Callable[[], Any], device: torch.device, rounds: int, *, new_event: Callable[[], Event] | None = None
) -> dict[str, Any]:
    """Median, least and most of the seconds of a run by each clock, and its most memory over what was there.

    On a GPU `wall_s` is of one run after the other, each waited for: what a caller waits. `device_s` is the time
    between events while the runs are handed over without waiting: what a run costs in a long row of them.

    Args:
        run: What is timed.
        device: Where it runs.
        rounds: Times that it is timed on a CPU; on a GPU the fewest.
        new_event: Makes events; none = CUDA's on a CUDA device, elsewhere there are none.

    Returns:
        `cpu_s`, `wall_s` and with events `device_s`: `median`, `min`, `max`; `runs` that were timed; `peak_mib`, none
        where it cannot be told.
    """
    if device.type != "cuda" and new_event is None:
        peak = peak_bytes(run, device)
        seconds = _by_clocks(run, device, rounds)
    else:
        warm_up(run, device)
        peak = peak_bytes(run, device)
        seconds = _by_clocks_of_runs(run, device, rounds)
        seconds["device_s"] = event_seconds(run, device, len(seconds["wall_s"]), new_event or new_cuda_event)
    figures: dict[str, Any] = {clock: spread(values) for clock, values in seconds.items()}
    return {**figures, "runs": len(seconds["wall_s"]), "peak_mib": None if peak is None else peak / 2**20}


def warm_up(run: Callable[[], Any], device: torch.device) -> int:
    """Run until two runs take the same within 3 %, or it has been tried often or long enough; returns how often."""
    times: list[float] = []
    while len(times) < _MOST_WARM_UPS and sum(times) < _WARM_UP_SECONDS:
        began = now(device)
        run()
        times.append(since(began, device)["wall_s"])
        is_stable = len(times) > 1 and abs(times[-1] - times[-2]) <= _STABLE * times[-1]
        if len(times) >= _FEWEST_WARM_UPS and is_stable:
            break
    return len(times)


def event_seconds(
    run: Callable[[], Any], device: torch.device, times: int, new_event: Callable[[], Event]
) -> list[float]:
    """Seconds of each of so many runs that are handed over one after the other, by marks between them."""
    marks = [new_event() for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    now(device)  # waits for the last
    return [first.elapsed_time(second) / 1000 for first, second in pairwise(marks)]


def new_cuda_event() -> Event:
    """An event that takes the time."""
    event: Event = torch.cuda.Event(enable_timing=True)
    return event


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def _by_clocks(run: Callable[[], Any], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Each round is as many runs as the clock needs."""
    began = now(device)
    run()
    times = min(100, math.ceil(LEAST_SECONDS / max(since(began, device)["wall_s"], 1e-9))) or 1
    measured = []
    for _ in range(rounds):
        began = now(device)
        for _ in range(times):
            run()
        measured.append(since(began, device, times))
    return {clock: [found[clock] for found in measured] for clock in began}


def _by_clocks_of_runs(run: Callable[[], Any], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Each round is one run; there are so many rounds at least, and enough for a GPU."""
    measured: list[dict[str, float]] = []
    while len(measured) < rounds or (
        len(measured) < LEAST_RUNS and sum(found["wall_s"] for found in measured) < ENOUGH_SECONDS
    ):
        began = now(device)
        run()
        measured.append(since(began, device))
    return {clock: [found[clock] for found in measured] for clock in measured[0]}
