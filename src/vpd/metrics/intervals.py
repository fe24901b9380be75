"""How far metrics would move on other samples of the same kind: percentile bootstrap over groups of samples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vpd.metrics.accumulator import Accumulator

DRAWS = 1000
"""Resampled data sets."""
CONFIDENCE = 0.95
"""Share of the resampled values that an interval spans."""
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""97.5 % points of Student's t for 1, 2, ... degrees of freedom."""
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
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    if len(places) < 2:
        return {}
    of_groups = rows.new_zeros((len(places), *rows.shape[1:]))
    of_groups.index_add_(0, torch.tensor([places[group] for group in groups]), rows)
    values = [metric.values(totals) for totals in _resampled(of_groups, draws, seed)]
    intervals = {}
    for name, actual in metric.values(rows.sum(dim=0)).items():
        if actual.ndim or name == metric.COUNT:
            continue
        drawn = torch.cat([value[name] for value in values]).numpy()
        drawn = drawn[~np.isnan(drawn)] if not actual.isnan() else np.full(1, np.nan)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(drawn, tail, method="lower"), np.quantile(drawn, 1 - tail, method="higher")
        intervals[name] = (float(low), float(high))
    return intervals


@dataclass(frozen=True)
class Difference:
    """How far the values of one arm of an experiment lie above those of another."""

    mean: float
    """Mean over seeds of the first arm minus that of the second."""
    low: float
    """Low end of the 95 % interval."""
    high: float
    """High end."""


def paired_differences(
    metric: Accumulator, rows: Tensor, others: Tensor, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Difference]:
    """Differences of two arms that were trained with the same seeds and measured on the same samples.

    Samples are drawn with replacement, the same ones for both arms: what makes a sample hard, or the labels of a seed
    few, makes it so for both and drops out of the difference. To each end of that interval the one of the mean over
    seeds (Student's t) is added as squares are: two or three seeds are too few to be drawn from, which would give
    intervals far too narrow. With one seed the interval is that of its samples alone.

    Args:
        metric: Whose rows these are.
        rows: Of the one arm, `(seeds, samples, *shape of a row)`.
        others: Of the other, with seeds and samples in the same order.
        draws: Resampled experiments.
        seed: Of the draws.

    Returns:
        By name, for every metric but counts and those of single classes.

    Raises:
        ValueError: If the shapes differ.
    """
    if rows.shape != others.shape:
        raise ValueError(
            f"The arms have rows of shapes {tuple(rows.shape)} and {tuple(others.shape)}; give the same seeds and "
            "samples of both."
        )
    arms = torch.stack([rows, others])  # (2, seeds, samples, *row)
    actual = metric.values(arms.sum(dim=2))
    by_sample = arms.movedim(2, 0)
    values = [metric.values(totals) for totals in _resampled(by_sample, draws, seed)]  # (draws, 2, seeds)
    tail = (1 - CONFIDENCE) / 2
    differences = {}
    for name, value in actual.items():
        if value.ndim != 2 or name == metric.COUNT:
            continue
        gaps = value[0] - value[1]  # of each seed
        drawn = torch.cat([found[name][:, 0] - found[name][:, 1] for found in values]).mean(dim=1).numpy()
        low, high = np.quantile(drawn, tail, method="lower"), np.quantile(drawn, 1 - tail, method="higher")
        mean, of_seeds = float(gaps.mean()), half_width(gaps.tolist())
        differences[name] = Difference(
            mean, mean - math.hypot(mean - low, of_seeds), mean + math.hypot(high - mean, of_seeds)
        )
    return differences


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of a few values, by Student's t; 0 for one value.

    Args:
        values: Independent, such as those of seeds.
    """
    freedom = len(values) - 1
    if freedom < 1:
        return 0.0
    # beyond the table, the first terms of Cornish and Fisher's expansion: within 0.1 %
    quantile = _T[freedom - 1] if freedom <= len(_T) else 1.95996 + 2.37227 / freedom + 2.82250 / freedom**2
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _resampled(rows: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
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
