"""Work that is done ahead by threads: results in order, and never more of them in memory than was said."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock, Semaphore
from typing import Any, Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Threads:
    """How many threads do what while pictures are predicted."""

    network: int
    """Groups of pictures that are worked on at once; 0 = one after the other, in the calling thread."""
    readers: int
    """Pictures that are read and fitted at once."""
    most_read_px: int
    """Pixels of pictures that were read and wait, unless a single one has more."""


def threads_for(model: Any) -> Threads:
    """How predictions of a model overlap on its device.

    A GPU waits whenever nobody launches: while one thread fits a picture or waits for a result, another launches. On
    CPUs the network takes all cores, and two at once would only take twice the memory. A model that `is_of_one_thread`
    stays in the caller's.
    """
    if model.device.type == "cuda":
        network = 0 if getattr(model, "is_of_one_thread", False) else 2
        return Threads(network=network, readers=16, most_read_px=100_000_000)
    return Threads(network=0, readers=8, most_read_px=24_000_000)


def overlapped(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    device: torch.device | None = None,
    most_ahead: int | None = None,
    cost: Callable[[Result], int] | None = None,
    most_cost: int = 0,
) -> Generator[Result, None, None]:
    """What a function makes of items, in their order, made ahead by threads while the caller uses what came before.

    Items are taken in the calling thread, as they are needed. An error of the function, or of the items, is raised in
    its place: after the results before it. Closed early, or after an error, what has not begun is left out and what
    has is waited for: no thread is left.

    Args:
        work: What is done.
        items: What to work on.
        threads: How many; 0 = in the calling thread, one item when its result is asked for.
        device: Where the function uses torch: its threads have gradients, autocast and, on CUDA, device and stream as
            they are where the first result is asked for. None = as torch has them in a new thread.
        most_ahead: Most items that are being worked on or wait as results; none = twice as many as threads.
        cost: Of a result, in any unit; what is being worked on is taken to cost as much as the dearest so far.
        most_cost: No further item is begun that would make the sum pass this; a single one may.

    Yields:
        The results.
    """
    if threads < 1:
        for item in items:
            made = [work(item)]
            del item  # or it would be there while the next is made
            yield made.pop()
        return
    work = work if device is None else _as_here(device, work)
    most_ahead, source, started = most_ahead or 2 * threads, _Source(items), deque[Future[Result]]()
    dearest: int | None = None  # not known before the first result is there

    def is_full() -> bool:
        nonlocal dearest
        if cost is None or not started or len(started) >= most_ahead:
            return len(started) >= most_ahead
        costs = [cost(each.result()) for each in started if each.done() and each.exception() is None]
        dearest = max([*costs, *(() if dearest is None else (dearest,))], default=None)
        if dearest is None:
            return len(started) > 1
        return sum(costs) + (len(started) - len(costs) + 1) * dearest > most_cost

    pool = ThreadPoolExecutor(threads, thread_name_prefix="vpd-ahead")
    try:
        while True:
            while not is_full() and source.has_next():
                started.append(pool.submit(work, source.take()))
            if not started:
                source.raise_error()
                return
            made = [started.popleft().result()]
            dearest = max(dearest or 0, cost(made[0])) if cost is not None else None
            yield made.pop()
    finally:
        started.clear()
        pool.shutdown(cancel_futures=True)


def _as_here(device: torch.device, work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """The same function for another thread, to be run as in this one: torch keeps its modes for each thread."""
    kind, has_gradients, is_inference = device.type, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    stream = torch.cuda.current_stream(device) if kind == "cuda" else None

    def wrapped(item: Item) -> Result:
        with ExitStack() as stack:
            if is_inference:
                stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.set_grad_enabled(has_gradients))
            if dtype is not None:
                stack.enter_context(torch.autocast(kind, dtype))
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
            return work(item)

    return wrapped


class Room:
    """Memory for so many threads at once, of which one that lacked some may have all."""

    def __init__(self, threads: int) -> None:
        self._number = max(1, threads)
        self._places, self._entry = Semaphore(self._number), Lock()

    @contextmanager
    def taken(self, *, alone: bool = False) -> Iterator[None]:
        """Wait for a place, or for all of them, and keep it for the block."""
        number = self._number if alone else 1
        with self._entry if alone else nullcontext():  # two who want all would wait for one another
            for _ in range(number):
                self._places.acquire()
        try:
            yield
        finally:
            self._places.release(number)


def launching(device: torch.device) -> AbstractContextManager[Any]:
    """A turn to launch a network on a GPU, to be had by one thread at a time; on others nobody waits.

    Two would hand the interpreter back and forth at each of hundreds of kernels, and hold two networks' activations.
    """
    if device.type != "cuda":
        return nullcontext()
    with _TURNS_LOCK:
        return _TURNS.setdefault(device, Lock())


_TURNS: dict[torch.device, Lock] = {}
_TURNS_LOCK = Lock()


class _Source(Generic[Item]):
    """Items of which it is known whether there is a next one, and whose error waits for its turn."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._next: list[Item] = []
        self._error: Exception | None = None
        self._is_over = False

    def has_next(self) -> bool:
        """Whether there is one; then it has been taken from the items."""
        if not self._next and not self._is_over:
            try:
                self._next.append(next(self._items))
            except StopIteration:
                self._is_over = True
            except Exception as error:  # of whatever kind: what was begun comes first
                self._error, self._is_over = error, True
        return bool(self._next)

    def take(self) -> Item:
        """The next one, which must be there."""
        return self._next.pop()

    def raise_error(self) -> None:
        """Raise what ended the items, if that was an error."""
        if self._error is not None:
            raise self._error
