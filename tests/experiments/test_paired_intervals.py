"""Differences of two arms, against answers that are known, and against how often they hold the truth."""

import math

import pytest
import torch

from experiments.paired_intervals import half_width, paired_differences
from vpd.metrics.depth import DepthMetrics


def depth_rows(values):
    """Rows of images whose errors are all the same number."""
    return torch.tensor([[value] * 9 + [1.0] for value in values], dtype=torch.float64)


def arms(values):
    """Rows of an arm from the one error of each seed's images, `(seeds, images)`."""
    return torch.stack([depth_rows(seed) for seed in torch.as_tensor(values).tolist()])


def test_paired_difference_of_a_constant_gap_has_no_width():
    hard = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))  # of samples and seeds; in both arms
    gaps = paired_differences(DepthMetrics(), arms(hard + 0.25), arms(hard))
    assert "images" not in gaps
    assert [gaps["rmse"].mean, gaps["rmse"].low, gaps["rmse"].high] == pytest.approx([0.25] * 3)


def test_paired_difference_knows_how_few_seeds_are():
    gap = paired_differences(DepthMetrics(), arms([[1.0] * 20, [3.0] * 20]), arms([[0.0] * 20] * 2))["rmse"]
    assert (gap.mean, gap.low, gap.high) == pytest.approx((2, 2 - 12.7062, 2 + 12.7062))  # t of 1, deviation of sqrt 2
    one = paired_differences(DepthMetrics(), arms([[1.0] * 20]), arms([[0.0] * 20]))["rmse"]
    assert (one.low, one.high) == (1, 1)


def test_half_width_by_hand():
    assert half_width([1.0, 3.0]) == pytest.approx(12.7062)
    assert half_width(list(range(5))) == pytest.approx(2.7764 * math.sqrt(2.5 / 5))
    t_of_30 = 2.0423  # tables'
    assert half_width(list(range(31))) == pytest.approx(t_of_30 * math.sqrt(31 * 32 / 12 / 31), rel=1e-3)
    assert half_width([5.0]) == 0


def test_paired_interval_covers_the_truth_about_as_often_as_it_says():
    """Seeds and samples both vary: 3 seeds of one mean difference, 200 samples."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(100):
        noise = torch.randn(2, 1, 200, generator=generator)
        of_seeds = 0.1 + 0.3 * torch.randn(3, 1, generator=generator)
        ours, theirs = arms(noise[0] + of_seeds), arms(noise[1].expand(3, -1))
        gap = paired_differences(DepthMetrics(), ours, theirs, draws=300, seed=trial)["rmse"]
        covered += gap.low <= 0.1 <= gap.high
    assert 90 <= covered <= 100


def test_arms_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        paired_differences(DepthMetrics(), arms([[1.0, 2.0]]), arms([[1.0]]))
