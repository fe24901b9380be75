"""Measures several models on the same samples: settings that differ, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch

from vpd.config import first_names
from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.evaluation.evaluate import Evaluation, measure
from vpd.files.atomic import read_json_lines
from vpd.loading import find_model, load
from vpd.metrics.intervals import Difference, paired_differences
from vpd.model_folder import CONFIG, is_run
from vpd.overrides import flat_settings
from vpd.tasks.table import TaskKind
from vpd.training.curves import LOG
from vpd.training.settings import read_settings, resolve_config
from vpd.training.setup import build_data

MOST = len(ascii_uppercase)
"""Models that are compared at once: each has a letter."""


@dataclass(frozen=True)
class Contestant:
    """A model, or the run that made it."""

    letter: str
    """What it is called here."""
    source: str
    """Folder, hub id or name."""
    settings: Mapping[str, Any]
    """Of its training, as far as is known: dotted key -> value."""
    log: Sequence[Mapping[str, Any]]
    """Lines of its run, or none."""


@dataclass(frozen=True)
class Comparison:
    """Models that were measured on the same samples; the first is what the others are held against."""

    contestants: list[Contestant]
    evaluations: list[Evaluation]

    @property
    def task(self) -> TaskKind:
        """Of all of them."""
        return self.evaluations[0].task

    def settings_that_differ(self) -> list[tuple[str, list[str]]]:
        """Key, and its value in each run."""
        keys = sorted({key for each in self.contestants for key in each.settings})
        rows = [(key, [str(each.settings.get(key, "–")) for each in self.contestants]) for key in keys]
        return [(key, values) for key, values in rows if len(set(values)) > 1]

    def metrics(self) -> dict[str, list[float]]:
        """Values of each metric, a value a model."""
        found: dict[str, list[float]] = {}
        for evaluation in self.evaluations:
            for ending, metric in evaluation.protocol.metrics.items():
                for name, value in metric.values(evaluation.rows(ending).sum(dim=0)).items():
                    if not value.ndim and name != metric.COUNT:
                        found.setdefault(name + ending, []).append(float(value))
        return found

    def differences(self, number: int) -> dict[str, Difference]:
        """How far each metric of a model, by its place, lies above that of the first; empty without groups to draw."""
        first, other = self.evaluations[0], self.evaluations[number]
        found: dict[str, Difference] = {}
        for ending, metric in first.protocol.metrics.items():
            of_metric = paired_differences(metric, other.rows(ending), first.rows(ending), first.groups)
            found |= {name + ending: differences[0] for name, differences in of_metric.items()}
        return {name: found[name] for name in self.metrics()}

    def class_differences(self, number: int) -> dict[str, Difference]:
        """The same of the IoU of each class."""
        first, other = self.evaluations[0], self.evaluations[number]
        found = paired_differences(first.protocol.metrics[""], other.rows(), first.rows(), first.groups)
        return dict(zip(first.classes, found.get("IoU", []), strict=False))

    def scores(self) -> list[list[float]]:
        """The score of each sample alone, for every model."""
        return [[each[self.task.score] for each in evaluation.scores()] for evaluation in self.evaluations]

    def samples_that_differ(self, most: int) -> list[int]:
        """Places of the samples in which models are furthest apart, those that gained and those that lost in turn."""
        first, *others = self.scores()
        gaps = [max((gap for gap in _gaps(first, others, place)), key=abs, default=0.0) for place in range(len(first))]
        order = sorted(range(len(gaps)), key=lambda place: -gaps[place])
        ups, downs = [p for p in order if gaps[p] > 0], [p for p in reversed(order) if gaps[p] < 0]
        turns = [place for pair in zip(ups, downs, strict=False) for place in pair]
        rest = (*ups[len(downs) :], *downs[len(ups) :])
        return [*turns, *rest][:most]


def compare(
    sources: Sequence[str],
    *,
    open_data: Callable[[Any], SampleSet] | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    workers: int = 0,
    device: str = "auto",
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[Comparison, SampleSet]:
    """Measure models on the same samples, one after the other.

    Args:
        sources: Training runs, model folders, hub ids or names of shipped models, all of one task.
        open_data: Gives the samples for the first model; none = those that its run was validated on.
        limit: The first so many samples only.
        batch_size: As for `measure`.
        workers: As for `measure`.
        device: Where to run.
        watch: As for `measure`.

    Raises:
        UsageError: If there are fewer than two models, they are of different tasks or classes, or there are no data.
    """
    if not 2 <= len(sources) <= MOST:
        raise UsageError(f"Give two or more runs to compare, {MOST} at most; there are {len(sources)}.")
    contestants = [_contestant(letter, source) for letter, source in zip(ascii_uppercase, sources, strict=False)]
    evaluations: list[Evaluation] = []
    samples: SampleSet | None = None
    for contestant in contestants:
        model = load(contestant.source, device=device)
        if samples is None:
            samples = open_data(model) if open_data else validation_data(contestant.source, type(model))
        _check_same(contestants[0], evaluations, contestant, model)
        options: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "workers": workers, "watch": watch}
        evaluation = measure(model, samples, **options)
        evaluations.append(replace(evaluation, protocol=evaluation.protocol.without_model()))
        del model, evaluation  # before the next is read
    if samples is None:  # there are two models at least
        raise UsageError("There is nothing to compare.")
    names = [[(entry.name, entry.texts) for entry in evaluation.table] for evaluation in evaluations]
    if any(of_model != names[0] for of_model in names):
        raise UsageError("The models were measured on different samples: the data changed meanwhile. Start again.")
    return Comparison(contestants, evaluations), samples


def validation_data(source: str, task: TaskKind) -> SampleSet:
    """What a run was validated on.

    Raises:
        UsageError: If the source is no run, or had no validation.
    """
    settings = Path(source) / CONFIG
    if not settings.is_file():
        raise UsageError(f"{source} is no training run, so it says no data to measure on: give --data.")
    _, samples = build_data(resolve_config(task, read_settings(settings)))
    if samples is None:
        raise UsageError(f"{source} was trained without validation: give --data.")
    return samples


def _contestant(letter: str, source: str) -> Contestant:
    folder = find_model(source)
    is_here = Path(source).is_dir()
    path = Path(source) / CONFIG if is_here and (Path(source) / CONFIG).is_file() else folder / CONFIG
    settings = flat_settings(read_settings(path)) if path.is_file() else {}
    log = read_json_lines(Path(source) / LOG) if is_here and is_run(Path(source)) else []
    return Contestant(letter, source, settings, log)


def _check_same(first: Contestant, before: Sequence[Evaluation], contestant: Contestant, model: Any) -> None:
    """Make sure that what is measured of a model is what was measured of the first."""
    if not before:
        return
    if before[0].task.task != model.task:
        raise UsageError(f"{first.source} is for {before[0].task.task}, {contestant.source} for {model.task}.")
    classes = tuple(getattr(model.config, "classes", ()))
    if classes != before[0].classes:
        told = [first_names(names) for names in (before[0].classes, classes)]
        raise UsageError(
            f"{first.source} and {contestant.source} know different classes, so their figures say different things: "
            f"{told[0]}; {told[1]}."
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the model before


def _gaps(first: Sequence[float], others: Sequence[Sequence[float]], place: int) -> list[float]:
    gaps = [other[place] - first[place] for other in others]
    return [gap for gap in gaps if math.isfinite(gap)]
