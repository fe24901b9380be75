"""How far two arms of an experiment lie apart: paired bootstrap over samples, Student's t over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vpd.metrics.accumulator import Accumulator
from vpd.metrics.intervals import CONFIDENCE, DRAWS, resampled

_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""97.5 % points of Student's t for 1, 2, ... degrees of freedom."""


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
    values = [metric.values(totals) for totals in resampled(by_sample, draws, seed)]  # (draws, 2, seeds)
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
