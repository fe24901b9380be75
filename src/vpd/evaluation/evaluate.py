"""The exact metrics of a model on a data set, through `predict`, with intervals; one process or many."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from vpd.config import Resize
from vpd.data.sample import Sample, SampleSet
from vpd.data.workers import NumberedSamples, Readers
from vpd.errors import UsageError
from vpd.evaluation.fitted_data import fit_classes, look_before
from vpd.evaluation.groups import groups_of, read_pattern, recordings_of
from vpd.evaluation.protocols import Protocol, draw_sheet
from vpd.evaluation.taking import Entry, Part, ReadAhead, add_counts, take
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import Memory
from vpd.inference.outputs import OutputError
from vpd.inference.overlapped import threads_for
from vpd.metrics.intervals import bootstrap_intervals
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction
from vpd.tasks.table import TaskKind

ROUND = 32
"""Batches of each process between two exchanges: far less than the ten minutes that NCCL waits for a process."""


class Interrupted(Exception):  # noqa: N818, nothing is wrong
    """An evaluation was asked to stop before it was done."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured: a table with one entry for each sample, and everything that follows from it."""

    task: TaskKind
    """The model's."""
    fit: Resize
    """How images were fitted."""
    classes: tuple[str, ...]
    """The model's classes, or empty."""
    protocol: Protocol
    """What was measured."""
    table: list[Entry]
    """The samples in the order of the data set, each exactly once."""
    available: int
    """Samples that the data set has."""
    grouped_by: str = ""
    """What made the groups: `data`, `recording` (by the names), a pattern, or nothing."""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """What diagnoses counted, if they were asked for: `confusion`, `thresholds`, `distances`."""

    @property
    def groups(self) -> list[str | int]:
        """Group of each sample; its own number where it stands alone."""
        return [entry.index if entry.group is None else entry.group for entry in self.table]

    def rows(self, ending: str = "") -> Tensor:
        """Rows of all samples, `(samples, *shape of a row)`, of the metrics with an ending."""
        return torch.stack([entry.rows[ending] for entry in self.table])

    def report(self) -> dict[str, Any]:
        """Everything but the table; what `evaluate` returns."""
        metrics: dict[str, float] = {}
        intervals: dict[str, list[float]] = {}
        for ending, metric in self.protocol.metrics.items():
            rows = self.rows(ending)
            values = {name: value for name, value in metric.values(rows.sum(dim=0)).items() if not value.ndim}
            ends = bootstrap_intervals(metric, rows, self.groups)
            metrics |= {name + ending: float(value) for name, value in values.items()}
            intervals |= {name + ending: [low, high] for name, (low, high) in ends.items()}
        notes = Counter(entry.note for entry in self.table if entry.note)
        return {
            "task": self.task.task,
            "samples": len(self.table),
            "available": self.available,
            "groups": len(set(self.groups)),
            "grouped_by": self.grouped_by,
            "metrics": metrics,
            "intervals": intervals,
            "per_class": self._per_class(),
            "protocol": self.protocol.words,
            "fit": self.fit.model_dump(mode="json"),
            **({"notes": dict(notes)} if notes else {}),
        }

    def scores(self) -> list[dict[str, float]]:
        """Metrics of each sample alone, at the size of the images."""
        metric = self.protocol.metrics[""]
        values = {name: value for name, value in metric.values(self.rows()).items() if value.ndim == 1}
        values.pop(metric.COUNT or "", None)
        return [dict(zip(values, row, strict=True)) for row in torch.stack(list(values.values()), dim=1).tolist()]

    def _per_class(self) -> dict[str, dict[str, float]]:
        """IoU, accuracy and share of the labelled pixels of each class; NaN where it is absent."""
        if not self.classes:
            return {}
        totals = self.rows().sum(dim=0)
        values = self.protocol.metrics[""].values(totals)
        if not {"IoU", "Acc"} <= values.keys():  # classes that are measured otherwise
            return {}
        columns = (values["IoU"].tolist(), values["Acc"].tolist(), (totals[2] / totals[2].sum()).tolist())
        rows = zip(self.classes, *columns, strict=True)
        return {name: {"IoU": iou, "Acc": accuracy, "share": share} for name, iou, accuracy, share in rows}


def is_better(task: TaskKind, new: float, old: float) -> bool:
    """Whether one score beats another: errors shall be small, shares large; NaN beats nothing."""
    if math.isnan(old):
        return not math.isnan(new)
    return new < old if task.score_is_error else new > old


def evaluate(model: PerceptionModel, sample_set: SampleSet, **options: Any) -> dict[str, Any]:
    """Measure a model; each task says what is measured.

    Args:
        model: The model; how it fits images (scales, windows, mirror image) is part of it.
        sample_set: Samples with the truth of the model's task.
        options: As `measure` takes them.

    Returns:
        `task`, `samples` of `available`, `groups` (how many), `grouped_by` (`data`, `recording`, a pattern, or empty
        where every sample stands alone), `metrics` (name -> number: shares are fractions of 1,
        errors metres), `intervals` (name -> low and high end of its 95 % interval; empty with fewer than 2 groups),
        `per_class` (class -> name -> number, or empty), `protocol` (what was measured, in words) and `fit`; `notes`
        (how samples were run for the sake of `memory` -> how many) where there are any.

    Raises:
        UsageError: As `measure`; and if a first look finds nothing in the samples that counts.
        Interrupted: As `measure`.
    """
    sample_set = fit_classes(model, sample_set)
    look_before(model, sample_set, "evaluated", limit=options.get("limit"))
    return measure(model, sample_set, **options).report()


def measure(
    model: PerceptionModel,
    sample_set: SampleSet,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    workers: int = 0,
    memory: Memory | None = None,
    accelerator: Accelerator | None = None,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    should_stop: Callable[[], bool] | None = None,
    keep: Callable[[Sample, Prediction], dict[str, Any]] | None = None,
    caches: FrozenCaches | None = None,
    group_by: str | None = None,
    diagnose: bool = False,
) -> Evaluation:
    """Predict every sample once and count it.

    The figures do not depend on the number of processes: whole batches are dealt out, so that each image goes
    through the network with the same others, and the table is put in the data set's order before anything is added.

    Args:
        model: The model; how it fits images (scales, windows, mirror image) is part of it.
        sample_set: Samples with the truth of the model's task.
        batch_size: Images that go through the network together where their sizes agree.
        limit: Use the first so many samples only.
        workers: Processes that read samples; 0 = a thread of this one, which is two batches ahead of the model, or the
            caller's, where the data set fails in another.
        memory: What predicting may take, as for `predict`; the report counts the samples that were run in windows or
            smaller for its sake.
        accelerator: Where several processes share the work; each gets the whole table.
        watch: Wraps the batches, for a progress bar.
        should_stop: Asked before each batch. When it says so in any process, all of them raise `Interrupted` after
            `ROUND` batches at most.
        keep: Gets every prediction of this process, say to write it; what it returns stands in the table.
        caches: Where results of the frozen parts are kept from one evaluation to the next, if anywhere.
        group_by: Regular expression whose first part in brackets, found in a sample's name, is its group, for the
            intervals; `none` = every sample stands alone; not given: the groups of the data, or where these have none
            and names are those of frames, the recordings (`vpd.evaluation.groups.recordings_of`).
        diagnose: Also find the kind of each sample's error, and count for the charts of a report.

    Raises:
        UsageError: If `group_by` is wrong or matches no name, there is no sample, one cannot be read or lacks the
            truth, or the classes of data and model, which are matched by name, have nothing in common; in all
            processes, after `ROUND` batches at most.
        OSError: If `keep` cannot write, as on a full disk; likewise.
        Interrupted: If `should_stop` said so.
    """
    total = len(sample_set) if limit is None else min(limit, len(sample_set))
    if total < 1:
        raise UsageError(f"There is no sample to measure on: the data has {len(sample_set)}, and limit is {limit}.")
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give 1 or more.")
    sample_set = fit_classes(model, sample_set)
    pattern = None if group_by is None else read_pattern(group_by)
    if pattern:  # before hours of work
        groups_of([sample_set[place * total // 3].name for place in range(3)], pattern)
    protocol = Protocol(model, sample_set, caches, memory)
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    batches = [range(first, min(first + batch_size, total)) for first in range(0, total, batch_size)]
    read, own = NumberedSamples(sample_set), batches[rank::processes]
    is_ahead = not workers and memory is None
    stream = iter(watch(ReadAhead(read, own) if is_ahead else Readers(read, own, workers=workers)))
    table: list[Entry] = []
    counts: dict[str, Tensor] = {}
    at_once = 0 if memory is not None else threads_for(model).network
    for _ in range(math.ceil(len(batches) / (processes * ROUND))):  # as many in every process
        part = take(protocol, islice(stream, ROUND), should_stop, keep, at_once, diagnose=diagnose)
        parts: list[Part] = gather_object([part]) if processes > 1 else [part]
        if problems := [each.problem for each in parts if each.problem]:
            raise next((other for other in problems if not isinstance(other, OutputError)), problems[0])
        if any(each.is_stopped for each in parts):
            raise Interrupted("The evaluation was stopped before all samples were measured.")
        for each in parts:
            table += each.entries
            add_counts(counts, each.counts)
    table.sort(key=lambda entry: entry.index)
    grouped_by = _group(table, group_by, pattern)
    classes = getattr(model.config, "classes", ())
    return Evaluation(type(model), model.config.fit, classes, protocol, table, len(sample_set), grouped_by, counts)


def _group(table: list[Entry], group_by: str | None, pattern: re.Pattern[str] | None) -> str:
    """Give the entries their groups; returns what made them."""
    names = [entry.name for entry in table]
    groups: Sequence[str | None] | None = None
    made_by = group_by or ""
    if group_by is not None:
        groups = groups_of(names, pattern) if pattern else [None] * len(names)
        made_by = group_by if pattern else ""
    elif any(entry.group is not None for entry in table):
        made_by = "data"
    elif groups := recordings_of(names):
        made_by = "recording"
    if groups is not None:
        table[:] = [replace(entry, group=group) for entry, group in zip(table, groups, strict=True)]
    return made_by


def sample_sheet(model: PerceptionModel, sample_set: SampleSet, *, count: int, caption: str = "") -> Image.Image:
    """Image, truth and prediction of a few samples, spread evenly over the data set, on one picture."""
    sample_set, count = fit_classes(model, sample_set), min(count, len(sample_set))
    samples = [sample_set[place * len(sample_set) // count] for place in range(count)]
    return draw_sheet(Protocol(model, sample_set), samples, caption=caption)
