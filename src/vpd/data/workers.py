"""Samples read by other processes, or by this one."""

from __future__ import annotations

import ast
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError, first_line
from vpd.processes import worker_context

logger = logging.getLogger(__name__)

Place = TypeVar("Place")
Item = TypeVar("Item")


class Readers(Generic[Place, Item]):
    """What a function makes of places, in their order.

    With `workers`, processes of their own do it ahead of time. They are never copies of this process: its other
    threads may hold a lock at that moment, which nobody would ever open in the copy. So they get the function by
    pickle. One that cannot be handed over (it is, or holds, a lambda, a local class, an open file, or something that
    only an unguarded script defines) is called in this process, with a warning.

    Args:
        read: Makes an item of a place.
        places: What to read; without end if that suits the caller.
        workers: Processes; 0 = read in this one.
        pin: Let a thread of this process call `pin_memory` of what other processes made, where it has that.
    """

    def __init__(
        self, read: Callable[[Place], Item], places: Iterable[Place], *, workers: int, pin: bool = False
    ) -> None:
        self._read, self._places, self._workers, self._pin = read, places, workers, pin

    def __len__(self) -> int:
        if not isinstance(self._places, Sized):
            raise TypeError("places that are made as they are needed have no number")
        return len(self._places)

    def __iter__(self) -> Generator[Item, None, None]:
        """Yield the items; to be closed, as the processes that read end only then.

        Raises:
            UsageError: If one of the processes was killed.
        """
        packed = _pack(self._read) if self._workers else None
        if packed is None:
            for place in self._places:
                yield self._read(place)
            return
        is_quiet = ("ignore", None, Warning, None, 0) in warnings.filters
        loader: DataLoader[Item] = DataLoader(
            packed,
            batch_size=None,
            sampler=self._places,
            num_workers=self._workers,
            collate_fn=_as_is,
            pin_memory=self._pin,
            worker_init_fn=partial(_begin, is_quiet=is_quiet, log_level=logging.getLogger().level),
            multiprocessing_context=worker_context(),
            generator=torch.Generator(),  # or torch's global generator would be advanced, and a resumed run differ
        )
        with nullcontext() if packed.needs_main else _without_main():
            items = iter(loader)
        try:
            yield from items
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):  # torch has no class of its own for it
                raise
            raise UsageError(
                f"A process that reads samples has ended: {error}. Mostly the system killed it because memory ran out, "
                "also that of /dev/shm; else its own last words stand above. Set a smaller `workers` (0 reads in the "
                "main process); a training goes on with --resume."
            ) from error


@dataclass(frozen=True)
class NumberedSamples:
    """Reads some samples of a set; one that cannot be read is its error, which would lose its message on its way."""

    sample_set: SampleSet

    def __call__(self, numbers: Iterable[int]) -> list[tuple[int, Sample | UsageError]]:
        """Each sample with its number."""
        return [(number, self._read(number)) for number in numbers]

    def _read(self, number: int) -> Sample | UsageError:
        try:
            return self.sample_set[number]
        except UsageError as error:
            return error


class _Packed(Dataset[Item]):
    """A function as bytes, unpacked by whoever reads first: pickled once, whatever the number of processes."""

    def __init__(self, content: bytes, *, needs_main: bool) -> None:
        self._content, self.needs_main = content, needs_main
        self._read: Callable[[Any], Item] | None = None

    def __getitem__(self, place: Any) -> Item:
        if self._read is None:
            self._read = pickle.loads(self._content)  # noqa: S301, our own
            self._content = b""
        return self._read(place)


class _Packer(pickle.Pickler):
    """Notes which modules whoever unpacks must import."""

    def __init__(self, buffer: BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.modules: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | FunctionType):
            self.modules.add(value.__module__.partition(".")[0])
        return NotImplemented


def _pack(read: Callable[[Any], Item]) -> _Packed[Item] | None:
    """A function for other processes, or none if it must stay here."""
    buffer = BytesIO()
    packer = _Packer(buffer)
    try:
        packer.dump(read)
    except Exception as error:  # every class refuses in its own way
        reason = first_line(error)
    else:
        needs_main = "__main__" in packer.modules
        lost = sorted(module for module in packer.modules - {"__main__"} if not _can_be_imported(module))
        if not lost and not (needs_main and not _main_can_be_imported()):
            return _Packed(buffer.getvalue(), needs_main=needs_main)
        reason = 'the script that defines it would run anew in each of them, for want of `if __name__ == "__main__":`'
        if lost:
            reason = f"they would not find its module {lost[0]} on sys.path"
    logger.warning(
        "The data set cannot be handed to other processes (%s), so this one reads the samples itself, which is slower. "
        "Put its class and its functions into a module of their own, at the top level.",
        reason,
    )
    return None


def _can_be_imported(module: str) -> bool:
    """Whether a new process finds a module, which this one may have from elsewhere."""
    return any(finder.find_spec(module, None) for finder in sys.meta_path)


def _main_can_be_imported() -> bool:
    """Whether the main script is a file that keeps its work behind `if __name__ == "__main__":`."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    try:
        script = ast.parse(Path(path or "").read_bytes())
    except (OSError, SyntaxError, ValueError):  # typed into a notebook, say
        return False
    tests = [ast.walk(statement.test) for statement in script.body if isinstance(statement, ast.If)]
    return any(isinstance(node, ast.Name) and node.id == "__name__" for nodes in tests for node in nodes)


@contextmanager
def _without_main() -> Iterator[None]:
    """Let the processes that are started meanwhile not run the main script, which may be any."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _as_is(item: Item) -> Item:
    """Keeps torch from making tensors of arrays."""
    return item


def _begin(number: int, *, is_quiet: bool, log_level: int) -> None:
    """What a process that reads does first: be as quiet as the one that it reads for, and leave signals to it."""
    logging.getLogger().setLevel(log_level)
    if is_quiet:
        warnings.simplefilter("ignore")
    shield_worker(number)


def shield_worker(_number: int) -> None:
    """Let a process that reads samples outlive SIGTERM and Ctrl-C: they are for the one that it reads for.

    torchrun, SLURM and terminals tell whole groups of processes, and without its readers none comes to save anything.
    A reader ends when its loader is closed, when the process that it reads for is gone, or when that one itself sends
    SIGTERM: so does Python at its end, and then waits for all readers that an error has left behind.
    """
    owner = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if owner is None:
        return
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # before there are threads, which inherit it
        threading.Thread(target=_end_when_told, args=(owner.pid,), daemon=True).start()
    else:  # macOS does not tell who sent a signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()


def _end_with(owner: Any) -> None:
    """End this process with the one that it reads for, however that ends."""
    owner.join()
    os._exit(0)


def _end_when_told(owner: int) -> None:
    """End this process at a SIGTERM of its owner; those of others are for the owner."""
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == owner:
            os._exit(0)
