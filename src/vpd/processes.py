"""Processes: those that work on one run together, as torchrun or SLURM set them up, and workers of one of them."""

from __future__ import annotations

import atexit
import gc
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import distributed

from vpd.errors import UsageError

logger = logging.getLogger(__name__)

T = TypeVar("T")
SILENCE_S = 15.0
"""After so many seconds without a word, a command says what it is doing."""
_PRELOADED = ["vpd.data.reader_server", "vpd.data.batches", "vpd.datasets.layouts"]
"""What the server of worker processes imports once for all of them: what readers of samples need."""


def worker_context() -> BaseContext:
    """How worker processes come to be: from a clean server where the system has one, else each anew.

    Never as copies of this process, whose other threads may hold a lock at that moment that nobody would open in the
    copy. The server begins to import at the first call, which takes a second or more, and this process goes on
    meanwhile. Signals that are sent to a whole group of processes do not end it (one that somebody else started
    before this call is as it is).
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    forkserver.set_forkserver_preload(_PRELOADED)
    resource_tracker.ensure_running()  # before the server, as it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        forkserver.ensure_running()
    except ChildProcessError:  # this process is a copy of the server's owner
        return multiprocessing.get_context("spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return multiprocessing.get_context("forkserver")


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may keep busy: those it may run on, and no more than its container is given time for.

    A container with time for 16 cores on a machine of 192 still sees 192; as many threads would wait for one another
    most of the time.

    Args:
        cgroup: Where the system says what a container is given.
    """
    cores = allowed_cores()
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2, version 1
        with suppress(OSError, ValueError):  # not there, or `max`: no limit
            quota, period = " ".join((cgroup / name).read_text(encoding="utf-8") for name in names).split()
            if int(quota) > 0 and int(period) > 0:
                return max(1, min(cores, math.ceil(int(quota) / int(period))))
    return cores


def allowed_cores() -> int:
    """Cores that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_processes(device: torch.device | None = None) -> Accelerator:
    """Device and other processes of this run, as torchrun or SLURM set them up; autocast is left to `LossOf`.

    A group of processes that is made here is left when Python ends; one that was there before is its maker's. A device
    is for a run of one process, none = the best; the first call decides.
    """
    is_new = not distributed.is_initialized()
    if device is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)  # it has no other way to be told
    try:
        accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    finally:
        if device is not None:
            del os.environ["ACCELERATE_TORCH_DEVICE"]
    if is_new and distributed.is_initialized():
        atexit.register(_leave_at_exit)
    return accelerator


def leave_processes() -> None:
    """Take leave of the other processes, if there are any; all do it together, when all is done."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _leave_at_exit() -> None:
    """Let gloo's threads end while Python still runs.

    One that frees a tensor later kills the process, about once in 200 ends (pytorch/pytorch#190489). NCCL has no such
    threads, and after a failure it would wait here for processes that do not come.
    """
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        gc.collect()  # an error that was raised keeps its frames, and they what keeps the group
        leave_processes()
        time.sleep(0.1)  # a device mesh keeps its group for good: its threads stay, but free now what they hold


def do_on_first(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Do something on the first process; the others wait for it, and raise what it raises (OSError, UsageError)."""
    failure: list[Exception | None] = [None]
    if accelerator.is_main_process:
        try:
            work()
        except (OSError, UsageError) as error:
            failure[0] = error
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]


@contextmanager
def logging_at(level: int, name: str) -> Iterator[None]:
    """Let a logger, and those below it, say nothing under a level while the block runs."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


class Heartbeat(logging.Handler):
    """Says what is going on whenever nothing else was said for `SILENCE_S` seconds; used as a context.

    What the package logs counts as said, and `spoke` tells of what came another way, such as a bar that moved.

    Args:
        enabled: False on all processes but the first, and where nobody wants to hear of it.
        say: Prints a line.
    """

    def __init__(self, *, enabled: bool, say: Callable[[str], None] = logger.info) -> None:
        super().__init__()
        self.say = say
        self._enabled, self._ended = enabled, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._tell: Callable[[], str] = lambda: "Starting"
        self._began_s = self._spoke_s = time.monotonic()

    def __enter__(self) -> Heartbeat:
        if self._enabled:
            logging.getLogger("vpd").addHandler(self)
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        logging.getLogger("vpd").removeHandler(self)
        if self._enabled:
            self._thread.join()  # or it might speak when all is over

    def emit(self, record: logging.LogRecord) -> None:
        """A line was logged; where nobody else hears of it, warnings are printed as ever."""
        self.spoke()
        others = {*logging.root.handlers, *logging.getLogger("vpd").handlers} - {self}
        if not others and logging.lastResort and record.levelno >= logging.lastResort.level:
            logging.lastResort.handle(record)

    def spoke(self) -> None:
        """Something was said."""
        self._spoke_s = time.monotonic()

    @contextmanager
    def doing(self, what: str | Callable[[], str]) -> Iterator[None]:
        """While the block runs, this is what is going on: words, or what gives them."""
        before = self._tell, self._began_s
        self._tell, self._began_s = (what if callable(what) else lambda: what), time.monotonic()
        try:
            yield
        finally:
            self._tell, self._began_s = before

    def watch(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Hand on items, and say meanwhile how many of them are done."""
        done = 0
        with self.doing(lambda: f"{what}: {done} of {total}"):
            for item in items:
                yield item
                done += 1

    def _beat(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._spoke_s >= SILENCE_S:
                seconds = time.monotonic() - self._began_s
                self.spoke()
                self.say(f"{self._tell()} ({seconds:.0f} s so far).")
