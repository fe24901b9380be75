"""Ending a run in good order when the system asks for it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME_REQUEST_S = 5.0


@dataclass
class StopRequest:
    """Whether somebody asked the process to stop."""

    signal: int | None = None
    """Number of the signal, or none so far."""


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take note of SIGTERM and Ctrl-C instead of dying of them; one that comes seconds later works as usual.

    One that comes sooner is the same request on another way: a terminal and SLURM tell torchrun and its processes,
    and torchrun tells them again.

    Outside the main thread, where Python takes no signals, nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    is_first, asked_s = os.environ.get("RANK", "0") == "0", 0.0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_s
        if request.signal is None:
            request.signal, asked_s = number, time.monotonic()
            if is_first:
                logger.info("Asked to stop: saving after the step that is under way.")
        elif time.monotonic() - asked_s > _SAME_REQUEST_S:
            usual = before[signal.Signals(number)]
            if is_first and usual is not signal.SIG_IGN:
                logger.info("Asked again: ending at once; what came after the last checkpoint is not saved.")
            signal.signal(number, usual)
            signal.raise_signal(number)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
