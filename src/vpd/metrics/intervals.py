"""How far metrics would move on other samples of the same kind: percentile bootstrap over groups of samples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vpd.metrics.accumulator import Accumulator

DRAWS = 1000
"""Resampled data sets."""
CONFIDENCE = 0.95
"""Share of the resampled values that an interval spans."""
_COUNTS_AT_ONCE = 2**23  # of a chunk of draws: 64 MB


def bootstrap_intervals(
    metric: Accumulator, rows: Tensor, groups: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Intervals of 95 % of a data set's metrics.

    Groups, not samples, are drawn with replacement, as many as there are: samples of one group (frames of one
    room, sentences about one picture) resemble each other, and taken for independent they would give intervals
    that are too narrow. The ends are values of draws, the outer neighbours of the 2.5 % and 97.5 % points. Draws in
    which a metric is NaN (nothing counted) are left out; a metric that is NaN itself has NaN for both ends.

    Args:
        metric: Whose rows these are.
        rows: `(samples, *shape of a row)`.
        groups: Group of each sample.
        draws: Resampled data sets.
        seed: Of the draws.

    Returns:
        Low and high end of every metric but counts and those of single classes; nothing with fewer than 2 groups.
    """
    of_groups = sums_of_groups(rows, groups)
    if len(of_groups) < 2:
        return {}
    values = [metric.values(totals) for totals in resampled(of_groups, draws, seed)]
    intervals = {}
    for name, actual in metric.values(rows.sum(dim=0)).items():
        if actual.ndim or name == metric.COUNT:
            continue
        drawn = torch.cat([value[name] for value in values]).numpy()
        intervals[name] = ends_of(drawn) if not actual.isnan() else (math.nan, math.nan)
    return intervals


def class_intervals(
    metric: Accumulator, rows: Tensor, groups: Sequence[Hashable], name: str, *, draws: int = DRAWS, seed: int = 0
) -> list[tuple[float, float]]:
    """As `bootstrap_intervals`, of a metric that has a value for each class; nothing with fewer than 2 groups."""
    of_groups = sums_of_groups(rows, groups)
    if len(of_groups) < 2:
        return []
    drawn = torch.cat([metric.values(totals)[name] for totals in resampled(of_groups, draws, seed)]).numpy()
    return [ends_of(of_class) for of_class in drawn.T]


class Difference(NamedTuple):
    """How far a metric of one model lies above that of another."""

    value: float
    low: float
    """Low end of the 95 % interval; NaN where there is none."""
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def paired_differences(
    metric: Accumulator, rows: Tensor, others: Tensor, groups: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, list[Difference]]:
    """Differences of two models that were measured on the same samples; the same draws for both.

    What makes a sample hard makes it so for both, and drops out of the difference: so the interval is narrower than
    those of the two models let one think.

    Args:
        metric: Whose rows these are.
        rows: Of the one model, `(samples, *shape of a row)`.
        others: Of the other, of the same samples.
        groups: Group of each sample; with fewer than 2 of them there are no intervals.
        draws: Resampled data sets.
        seed: Of the draws.

    Returns:
        By name, of all metrics but counts: one difference, or one for each class.
    """
    both = sums_of_groups(torch.stack([rows, others], dim=1), groups)  # (groups, 2, *row)
    actual = metric.values(both.sum(dim=0))
    drawn = [metric.values(totals) for totals in resampled(both, draws, seed)] if len(both) > 1 else []
    differences = {}
    for name, (value, other) in actual.items():
        if name == metric.COUNT:
            continue
        gaps = (value - other).reshape(-1).tolist()
        ends = [(math.nan, math.nan)] * len(gaps)
        if drawn:
            found = torch.cat([values[name][:, 0] - values[name][:, 1] for values in drawn]).reshape(draws, -1).numpy()
            ends = [ends_of(of_class) for of_class in found.T]
        differences[name] = [Difference(gap, *end) for gap, end in zip(gaps, ends, strict=True)]
    return differences


def sums_of_groups(rows: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Sum of the rows of each group, in the order in which they first come."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    of_groups = rows.new_zeros((len(places), *rows.shape[1:]))
    return of_groups.index_add_(0, torch.tensor([places[group] for group in groups]), rows)


def ends_of(drawn: NDArray[np.floating]) -> tuple[float, float]:
    """The ends of the interval of values that were drawn, without NaN; NaN where there is no other."""
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, tail, method="lower"), np.quantile(drawn, 1 - tail, method="higher")
    return float(low), float(high)


def resampled(rows: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
    """Sums of as many rows as there are, drawn with replacement: chunks of `(draws, *shape of a row)` float64."""
    generator = np.random.default_rng(seed)
    number = len(rows)
    flat = rows.flatten(1).double().numpy()
    finite = np.where(np.isfinite(flat), flat, 0)  # 0 times infinity would be NaN where a row is not drawn
    special = {np.nan: np.isnan(flat), np.inf: flat == np.inf, -np.inf: flat == -np.inf}
    special = {value: where for value, where in special.items() if where.any()}
    chunk = max(1, _COUNTS_AT_ONCE // number)
    for first in range(0, draws, chunk):
        size = min(chunk, draws - first)
        drawn = generator.integers(number, size=(size, number)) + number * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * number).reshape(size, number).astype(np.float64)
        totals = np.einsum("dg,gr->dr", times, finite)  # no BLAS: its order of adding depends on its threads
        for value, where in special.items():
            totals[times @ where > 0] += value
        yield torch.from_numpy(totals).reshape(size, *rows.shape[1:])
