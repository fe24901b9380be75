"""Batches on their way to the device, one ahead of need where the device computes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from vpd.tensors import Batch


class Fed(NamedTuple):
    """A batch twice."""

    read: Batch
    """As it was read."""
    sent: Batch
    """On the device; the copy may be under way."""


class Feed:
    """Batches and their copies on a device.

    A GPU computes while this process goes on, so the next batch is drawn meanwhile, into pinned memory, from where its
    copy waits for nobody. On a CPU nothing is gained by that, and each batch is drawn when it is needed.

    Args:
        batches: In their order; what is left of them is for whoever closes them.
        device: Where to.
        is_ahead: Whether `ahead` does anything; none = where the device is no CPU.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device, *, is_ahead: bool | None = None) -> None:
        self._batches, self._device = batches, device
        self._is_ahead = device.type != "cpu" if is_ahead is None else is_ahead
        self._next: Fed | Exception | None = None
        self._draws: list[tuple[Any, Any]] = []
        self._mark, self._seconds = _clock(device)

    def next(self) -> Fed:
        """The next batch.

        Raises:
            StopIteration: If there is none.
            Exception: Whatever reading it raised, also where that was some time ago.
        """
        found = self._drawn() if self._next is None else self._next
        self._next = None
        if isinstance(found, Exception):
            raise found
        return found

    def ahead(self) -> None:
        """Draw the next batch and start its copy, while the device does what it was told before."""
        if self._is_ahead and self._next is None:
            self._next = self._drawn()

    def waited_s(self) -> float:
        """Seconds that the device had nothing to do while batches were drawn, since this was asked last.

        To be asked when the device has done all that it was told.
        """
        draws, self._draws = self._draws, []
        return sum(self._seconds(*marks) for marks in draws)

    def _drawn(self) -> Fed | Exception:
        began = self._mark()
        try:
            read = next(self._batches)
        except Exception as error:  # it is for the step that needs this batch
            return error
        self._draws.append((began, self._mark()))
        if self._device.type == "cuda":
            read = read.pin_memory()
        return Fed(read, read.to(self._device))


def _clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """What marks a moment, and seconds between two of them, by the time of the device where it has one.

    A mark of a GPU's lies behind all that it was told before; so between two without work lies its idle time.
    """
    if device.type != "cuda":
        return time.perf_counter, lambda began_s, ended_s: ended_s - began_s

    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return mark, lambda began, ended: began.elapsed_time(ended) / 1000
