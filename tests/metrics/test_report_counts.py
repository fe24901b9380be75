"""Counts for charts, against the plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vpd.metrics.distances import DISTANCES, distance_counts, error_quantiles
from vpd.metrics.intervals import bootstrap_intervals, class_intervals
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.metrics.thresholds import STEPS, threshold_counts, threshold_curves


def test_thresholds_are_as_cutting_at_each():
    torch.manual_seed(0)
    probability, mask = torch.rand(30, 20), torch.rand(30, 20) > 0.6
    counts = threshold_counts(probability, mask)
    for place in (0, 13, 50, 99, STEPS):
        marked = probability > place / STEPS
        both, either = int((marked & mask).sum()), int((marked | mask).sum())
        assert counts[:, place].tolist() == [both, int((marked & ~mask).sum()), int(both / either >= 0.5)]
    curves = threshold_curves(2 * counts, pixels=2 * int(mask.sum()), samples=2)
    assert curves["recall"][0] == 1 and curves["precision"][0] == pytest.approx(mask.double().mean())
    assert math.isnan(curves["precision"][STEPS]) and curves["oIoU"][STEPS] == 0


def test_distances_by_hand():
    counts = distance_counts(torch.tensor([1.1, 1.2, 5.0, math.nan]), torch.tensor([1.0, 1.0, 10.0, 9.9]), 10.0)
    assert counts.sum(dim=1).nonzero().flatten().tolist() == [2, DISTANCES - 1]
    signed = error_quantiles(counts, (0.5, 0.9), signed=True)
    assert signed[2] == pytest.approx([0.1, 0.2], abs=0.005) and signed[-1] == pytest.approx([-1, -0.5], abs=0.005)
    size = error_quantiles(counts, (0.5,), signed=False)
    assert size[-1] == pytest.approx([0.5], abs=0.005) and np.isnan(size[0])


def test_intervals_of_classes_hold_their_values():
    generator = torch.Generator().manual_seed(0)
    metric = SegmentationMetrics(2)
    rows = torch.stack(
        [metric.row(*torch.randint(0, 2, (2, 20, 20), generator=generator, dtype=torch.uint8)) for _ in range(12)]
    )
    values = metric.values(rows.sum(dim=0))["IoU"].tolist()
    ends = class_intervals(metric, rows, list(range(12)), "IoU")
    assert all(low < value < high for value, (low, high) in zip(values, ends, strict=True))
    assert class_intervals(metric, rows, ["a"] * 12, "IoU") == [] == list(bootstrap_intervals(metric, rows, ["a"] * 12))
