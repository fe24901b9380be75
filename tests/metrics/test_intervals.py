"""Bootstrap intervals, against answers that are known, and against how often they hold the truth."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from vpd.metrics.depth import DepthMetrics
from vpd.metrics.intervals import bootstrap_intervals
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.segmentation import SegmentationMetrics


def depth_rows(values):
    """Rows of images whose errors are all the same number."""
    return torch.tensor([[value] * 9 + [1.0] for value in values], dtype=torch.float64)


def test_two_groups_can_only_be_drawn_in_three_ways():
    rows = depth_rows([1.0, 1.0, 4.0])
    assert bootstrap_intervals(DepthMetrics(), rows, ["a", "a", "b"])["rmse"] == (1.0, 4.0)


def test_what_never_varies_has_no_width():
    assert bootstrap_intervals(DepthMetrics(), depth_rows([2.0] * 7), range(7))["rmse"] == (2.0, 2.0)


@pytest.mark.parametrize("groups", [["one"] * 5, ["one"]])
def test_one_group_says_nothing_of_others(groups):
    assert bootstrap_intervals(DepthMetrics(), depth_rows([1.0] * len(groups)), groups) == {}


def test_shares_spread_as_the_binomial_distribution_says():
    hits = torch.zeros(400, 9, dtype=torch.float64)
    hits[:, 3] = 1  # sentences
    hits[:120, 4] = 1  # P@0.5 = 0.3
    low, high = bootstrap_intervals(ReferringMetrics(), hits, range(400), draws=4000)["P@0.5"]
    half = NormalDist().inv_cdf(0.975) * math.sqrt(0.3 * 0.7 / 400)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_overall_iou_is_made_anew_in_every_draw():
    """A large sample and a small one: the mean of samples would be between them, the overall IoU is not."""
    rows = torch.tensor([[90, 100, 0.9, 1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 0, 0, 0, 0]], dtype=torch.float64)
    intervals = bootstrap_intervals(ReferringMetrics(), rows, range(2))
    assert intervals["oIoU"] == (0.0, 0.9)
    assert intervals["mIoU"] == (0.0, 0.9)
    assert "sentences" not in intervals


def test_classes_have_no_intervals_and_absent_ones_do_no_harm():
    rows = torch.zeros(3, 3, 2, dtype=torch.int64)
    rows[:, :, 0] = torch.tensor([5, 10, 10])  # IoU 5 / 15 everywhere; class 1 is nowhere
    intervals = bootstrap_intervals(SegmentationMetrics(2), rows, range(3))
    assert set(intervals) == {"mIoU", "mAcc", "aAcc"}
    assert intervals["mIoU"] == pytest.approx((1 / 3, 1 / 3))


def test_same_seed_same_ends():
    rows = depth_rows(np.random.default_rng(0).random(50))
    first, again, other = (bootstrap_intervals(DepthMetrics(), rows, range(50), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_infinite_and_nan_errors_stay_what_they_are():
    rows = depth_rows([1.0, 1.0, 1.0])
    rows[0, 6], rows[1, 7] = math.inf, math.nan  # rmse_log of one image, log10 of another
    intervals = bootstrap_intervals(DepthMetrics(), rows, range(3))
    assert intervals["rmse_log"] == (1.0, math.inf)  # some draws are without that image
    assert all(math.isnan(end) for end in intervals["log10"])
    assert intervals["rmse"] == (1.0, 1.0)


def test_images_that_do_not_count_leave_draws_without_a_value():
    rows = torch.cat([depth_rows([3.0]), torch.zeros(1, 10, dtype=torch.float64)])
    assert bootstrap_intervals(DepthMetrics(), rows, range(2))["rmse"] == (3.0, 3.0)


def test_intervals_hold_the_truth_about_95_times_in_100_only_if_groups_are_drawn():
    """Samples of a group share half of their error: 25 groups of 4, and the true mean is 1."""
    generator = np.random.default_rng(5)
    held = {"groups": 0, "samples": 0}
    for trial in range(200):
        errors = 1 + generator.normal(0, 0.2, (25, 1)) + generator.normal(0, 0.1, (25, 4))
        rows = depth_rows(errors.ravel())
        for kind, groups in (("groups", np.repeat(range(25), 4).tolist()), ("samples", range(100))):
            low, high = bootstrap_intervals(DepthMetrics(), rows, groups, draws=300, seed=trial)["rmse"]
            held[kind] += low <= 1 <= high
    assert 180 <= held["groups"] <= 198
    assert held["samples"] < 160
