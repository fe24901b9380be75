"""Samples read, predicted and counted, one after the other or by threads: the rows of an evaluation's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vpd.data.sample import Sample, tell_left_out
from vpd.data.workers import NumberedSamples
from vpd.errors import UsageError
from vpd.evaluation.protocols import Protocol
from vpd.inference.overlapped import overlapped
from vpd.tasks.failures import Diagnosis
from vpd.tasks.predictions import Prediction
from vpd.tasks.task import Measured


@dataclass(frozen=True)
class Entry:
    """One sample in the table of an evaluation."""

    index: int
    """Its number in the data set."""
    name: str
    """Its name there."""
    group: str | None
    """What it shares with samples that resemble it; none = it stands alone."""
    rows: dict[str, Tensor]
    """What it adds to each metric of the protocol."""
    record: dict[str, Any] | None = None
    """What `keep` said of its prediction."""
    note: str = ""
    """What was done to stay within the memory that changes the prediction; empty = nothing."""
    texts: tuple[str, ...] = ()
    """Its expressions."""
    kind: str = ""
    """Of its largest error, where samples are diagnosed."""


@dataclass(frozen=True)
class ReadAhead:
    """Batches of samples, read by one thread ahead of their use: a data set need not bear several at once.

    The caller's reads the first, so that what a data set opens then is its; and all from one on that fails in the
    other, as SQLite's files do, which only the thread that opened them may read.
    """

    read: NumberedSamples
    """Reads a batch."""
    batches: Sequence[range]
    """Numbers of the samples."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, Sample | UsageError]]]:
        yield from map(self.read, self.batches[:1])
        done = 1
        with suppress(Exception), closing(overlapped(self.read, self.batches[1:], threads=1, most_ahead=2)) as ahead:
            for batch in ahead:
                done += 1
                yield batch
        yield from map(self.read, self.batches[done:])


@dataclass(frozen=True)
class Part:
    """What one process has to tell the others."""

    entries: list[Entry]
    problem: Exception | None = None
    """What went wrong."""
    is_stopped: bool = False
    """Whether it was asked to stop."""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """What diagnoses count, over these entries."""


def add_counts(totals: dict[str, Tensor], counts: Mapping[str, Tensor]) -> None:
    """Add counts of some samples to those of others."""
    for name, value in counts.items():
        totals[name] = totals[name] + value if name in totals else value


def take(
    protocol: Protocol,
    batches: Iterable[Sequence[tuple[int, Sample | UsageError]]],
    should_stop: Callable[[], bool] | None,
    keep: Callable[[Sample, Prediction], dict[str, Any]] | None,
    at_once: int,
    *,
    diagnose: bool = False,
) -> Part:
    """What came of some batches, `at_once` of which are worked on by threads, 0 = one after the other in this one.

    An error is told, not raised, or the other processes would wait for this one.
    """
    entries, counts, is_stopped = list[Entry](), dict[str, Tensor](), False

    def unless_stopped() -> Iterator[Sequence[tuple[int, Sample | UsageError]]]:
        nonlocal is_stopped
        for numbered in batches:
            if should_stop is not None and should_stop():
                is_stopped = True
                return
            yield numbered

    def measured(numbered: Sequence[tuple[int, Sample | UsageError]]) -> list[tuple[int, Sample, Measured]]:
        samples = [_readable(sample) for _, sample in numbered]
        return [
            (index, sample, each)
            for (index, _), sample, each in zip(numbered, samples, protocol.measure(samples), strict=True)
        ]

    try:
        with closing(overlapped(measured, unless_stopped(), threads=at_once, device=protocol.device)) as done:
            for part in done:
                for index, sample, (prediction, rows) in part:
                    tell_left_out(sample)
                    record = keep(sample, prediction) if keep else None
                    found = protocol.diagnose(sample, prediction) if diagnose else Diagnosis()
                    add_counts(counts, found.counts)
                    told = (record, prediction.note, sample.texts, found.kind)
                    entries.append(Entry(index, sample.name, sample.group, rows, *told))
    except (UsageError, OSError) as error:
        return Part([], error)
    return Part([], is_stopped=True) if is_stopped else Part(entries, counts=counts)


def _readable(sample: Sample | UsageError) -> Sample:
    if isinstance(sample, UsageError):
        raise sample
    return sample
