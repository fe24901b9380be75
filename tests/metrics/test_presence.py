"""Scores as probabilities, against counts by hand and a known logistic function."""

import numpy as np
import pytest

from vpd.metrics.presence import fit_platt, roc_auc


def test_auc_by_hand():
    assert roc_auc([3.0, 1.0], [2.0, 1.0]) == (1 + 1 + 0 + 0.5) / 4
    assert roc_auc([1.0], [0.0]) == 1.0


def test_a_known_logistic_function_is_found():
    random = np.random.default_rng(0)
    scores = random.normal(3.0, 2.0, 20_000)
    is_right = random.random(20_000) < 1 / (1 + np.exp(-(1.5 * scores - 4.5)))  # half of them, as is taken for granted
    slope, offset = fit_platt(scores[is_right].tolist(), scores[~is_right].tolist())
    assert (slope, offset) == (pytest.approx(1.5, rel=0.05), pytest.approx(-4.5, rel=0.05))


def test_scores_that_separate_have_a_finite_slope():
    slope, offset = fit_platt([2.0, 3.0], [0.0, 1.0])
    assert 0 < slope < 10 and slope * 1.5 + offset == pytest.approx(0, abs=1e-6)
    small, _ = fit_platt([2e-6, 3e-6], [0.0, 1e-6])
    assert small == pytest.approx(1e6 * slope, rel=1e-3)


@pytest.mark.parametrize(("right", "wrong"), [([0.0, 1.0], [2.0, 3.0]), ([1.0, 1.0], [1.0, 1.0])])
def test_scores_that_tell_nothing_have_no_slope(right, wrong):
    assert fit_platt(right, wrong) == (0.0, 0.0)
