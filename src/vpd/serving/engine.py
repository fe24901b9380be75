"""A bounded queue in front of what computes: refused when full, worked on in groups, finished before the end."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vpd.errors import UsageError

logger = logging.getLogger(__name__)

Work = Callable[[Sequence[Any]], Sequence[Any]]
"""Gets what was asked in several jobs of one key, and gives for each its result, or the error to raise for it."""
_LONGEST_WAIT_S = 60


class BusyError(Exception):
    """There is no place in the queue, or the service is stopping.

    Args:
        message: What to tell the caller.
        retry_after_s: When it is worth to try again, seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Job:
    work: Work
    key: Hashable
    asked: Any
    px: int
    future: Future[Any] = field(default_factory=Future)


class Engine:
    """Runs jobs in the order in which they came, those that wait and agree in their key together.

    It never waits for more jobs to come: a lone job runs at once.

    Args:
        places: Requests that may be inside at a time, from the first byte of their body to their answer.
        batch: Most jobs of a group.
        most_px: Most pixels of a group's pictures together, unless a single one has more.
        threads: Groups that are worked on at once.
        on_group: Is told how many jobs a group has, and how many seconds it took.
    """

    def __init__(
        self,
        *,
        places: int,
        batch: int = 1,
        most_px: int = 40_000_000,
        threads: int = 1,
        on_group: Callable[[int, float], None] = lambda jobs, seconds: None,
    ) -> None:
        self.batch = batch
        self._places, self._most_px, self._on_group = places, most_px, on_group
        self._inside = self._running = 0
        self._job_s = 0.1  # about what one job takes; learnt from those that ran
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self.is_stopping = False
        """Whether no further request is taken."""
        self._threads = [
            threading.Thread(target=self._run, name=f"vpd-engine-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def inside(self) -> int:
        """Requests that hold a place."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds a place, and nothing waits or runs."""
        with self._changed:
            return not self._inside and not self._waiting and not self._running

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, for as long as the block runs.

        Raises:
            BusyError: If there is none.
        """
        with self._changed:
            if self.is_stopping:
                raise BusyError("The service is stopping.", retry_after_s=10)
            if self._inside >= self._places:
                raise BusyError(f"{self._places} requests are being served already.", retry_after_s=self._wait_s())
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1

    def submit(self, work: Work, *, key: Hashable, asked: Any, px: int = 0) -> Future[Any]:
        """Queue a job; its future can be cancelled until it runs, and then the job is forgotten at once.

        Args:
            work: What is done; of a group the first job's, so it must do the same for all jobs of a key.
            key: Jobs that agree in it may run together.
            asked: What `work` gets for the job.
            px: Pixels of its picture.
        """
        job = _Job(work, key, asked, px)
        with self._changed:
            if self.is_stopping and not self._threads[0].is_alive():
                raise BusyError("The service is stopping.", retry_after_s=10)
            self._waiting.append(job)
            self._changed.notify()
        job.future.add_done_callback(self._forget)
        return job.future

    def _forget(self, future: Future[Any]) -> None:
        """Let go of a cancelled job: its caller's place is free, so its picture would be one more than are allowed."""
        if future.cancelled():
            with self._changed:
                self._waiting = deque(job for job in self._waiting if job.future is not future)

    def stop(self) -> None:
        """Take no further request; what was taken is finished."""
        with self._changed:
            self.is_stopping = True
            self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> None:
        """Stop, and wait until what was taken is finished, so many seconds at most for each thread."""
        self.stop()
        for thread in self._threads:
            thread.join(timeout_s)

    def _wait_s(self) -> int:
        jobs = max(1, len(self._waiting)) / max(1, len(self._threads))
        return int(min(_LONGEST_WAIT_S, max(1, jobs * self._job_s)))

    def _run(self) -> None:
        while group := self._next_group():
            began_s = time.monotonic()
            _finish(group)
            seconds = time.monotonic() - began_s
            with self._changed:
                self._running -= 1
                self._job_s += 0.1 * (seconds / len(group) - self._job_s)
            self._on_group(len(group), seconds)
            del group  # or its pictures would be there while the next is waited for

    def _next_group(self) -> list[_Job]:
        """The oldest job and others that go with it; empty when all is done and none will come."""
        with self._changed:
            while True:
                while not self._waiting and not (self.is_stopping and not self._inside):
                    self._changed.wait(0.5 if self.is_stopping else None)
                if not self._waiting:
                    return []
                group = self._take_group()
                group = [job for job in group if job.future.set_running_or_notify_cancel()]
                if group:
                    self._running += 1
                    return group

    def _take_group(self) -> list[_Job]:
        group, px, rest = [self._waiting.popleft()], 0, deque[_Job]()
        px = group[0].px
        while self._waiting and len(group) < self.batch:
            job = self._waiting.popleft()
            if job.key == group[0].key and px + job.px <= self._most_px:
                group.append(job)
                px += job.px
            else:
                rest.append(job)
        self._waiting.extendleft(reversed(rest))
        return group


def _finish(group: Sequence[_Job]) -> None:
    """Work on a group, whose jobs all get a result or an error, whatever happens."""
    try:
        results = group[0].work([job.asked for job in group])
        if len(results) != len(group):
            raise RuntimeError(f"{len(group)} jobs, but {len(results)} results.")
    except Exception as error:
        if not isinstance(error, UsageError):  # that is the caller's, who is told
            logger.exception("A group of %d failed.", len(group))
        results = [error] * len(group)
    for job, result in zip(group, results, strict=True):
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
