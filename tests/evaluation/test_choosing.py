"""Which samples a report shows."""

from __future__ import annotations

import math

from vpd.evaluation.choosing import different_failures, ranked, spread, usual
from vpd.tasks.depth import DepthModel
from vpd.tasks.segmentation import SegmentationModel


def test_worst_means_low_shares_and_high_errors():
    assert ranked([0.5, math.nan, 0.1, 0.9, 0.1], SegmentationModel) == [2, 4, 0, 3]
    assert ranked([0.5, math.nan, 0.1, 0.9], DepthModel) == [3, 0, 2]


def test_one_of_each_group_comes_first():
    assert spread([4, 2, 0, 1, 3], ["a", "b", "a", "b", "a"]) == [4, 1, 2, 0, 3]
    assert spread([], []) == []


def test_failures_are_of_different_kinds_and_groups():
    """Six frames of one film with one error come first by score, and would fill the page."""
    kinds = ["hole"] * 6 + ["edge", "hole", "edge", "wall"]
    groups = ["film"] * 6 + ["film", "room", "room", "room"]
    chosen = different_failures(range(10), kinds, groups, 4)
    assert chosen == [0, 8, 9, 1]
    assert len(different_failures(range(10), kinds, groups, 20)) == 10


def test_failures_are_of_the_worst_third_and_wrong():
    kinds = ["", "a", *["b"] * 13, *["good"] * 15]
    assert different_failures(range(30), kinds, list(range(30)), 3) == [1, 2, 3]
    assert different_failures(range(3), ["", "", ""], [0, 1, 2], 2) == [0, 1]  # a task that says no kinds
    assert different_failures([], [], [], 5) == []


def test_usual_is_the_middle():
    assert usual([4, 3, 2, 1, 0], list(range(5)), 1) == [2]
    assert usual([], [], 3) == []
