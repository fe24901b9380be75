"""Masks at thresholds, by hand."""

import torch

from vpd.metrics.thresholds import STEPS, best_cut, threshold_counts


def test_masks_are_cut_where_they_fit_best():
    probability = torch.tensor([[0.9, 0.72, 0.64, 0.2]], dtype=torch.float64)
    counts = torch.zeros(3, STEPS + 1, dtype=torch.int64)
    assert best_cut(counts, pixels=0) is None
    counts += threshold_counts(probability, torch.tensor([[False, False, False, False]]))
    assert best_cut(counts, pixels=0) is None
    counts += threshold_counts(probability, torch.tensor([[True, True, False, False]]))
    assert best_cut(counts, pixels=2) == 0.65  # of those from 0.65 to 0.7 the one next to 0.5
    counts += threshold_counts(
        torch.tensor([[0.3, 0.3, 0.3, 0.1]], dtype=torch.float64), torch.tensor([[True, True, True, False]])
    )
    assert best_cut(counts, pixels=5) == 0.25  # three pixels more, and two that are wrong
