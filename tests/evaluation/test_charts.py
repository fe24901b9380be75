"""Charts of a report, of counts made by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from vpd.evaluation.charts import sections
from vpd.metrics.depth import DepthMetrics
from vpd.metrics.distances import distance_counts
from vpd.metrics.thresholds import threshold_counts
from vpd.tasks.depth import DepthModel
from vpd.tasks.segmentation import SegmentationModel


def made(task: Any, counts: dict[str, torch.Tensor], **more: Any) -> dict[str, str]:
    """Title -> HTML."""
    protocol = SimpleNamespace(cut=0.7, metrics={"": DepthMetrics(max_depth_m=10.0)})
    evaluation: Any = SimpleNamespace(task=task, counts=counts, protocol=protocol, table=[None] * 2, **more)
    return dict(sections(evaluation, {"per_class": {}}, [0.5, float("nan")]))


def test_of_many_classes_those_that_are_wrong():
    confusion = torch.eye(30, dtype=torch.int64) * 100
    for number in range(26):
        confusion[number, (number + 1) % 26] = 1 + number
    true = confusion.sum(dim=1)
    true[0] += 50  # of no class
    rows = torch.stack([confusion.diagonal(), confusion.sum(dim=0), true])[None]
    classes = tuple(f"class {number}" for number in range(30))
    page = made(SegmentationModel, {"confusion": confusion}, classes=classes, rows=lambda: rows)[
        "What is taken for what"
    ]
    assert "Shown: the 25 of 30 classes" in page and "no class was predicted" in page
    drawn = set(re.findall(r">(class \d+)</text>", page))
    assert len(drawn) == 25 and drawn <= set(classes[:26])
    first = re.search(r"<td>class (\d+) → class (\d+)</td>", page)
    assert first and first.groups() == ("25", "0")  # 26 pixels, the most


def test_thresholds_name_the_best_and_the_one_that_was_used():
    probability = torch.linspace(0, 1, 101)[None]
    mask = probability > 0.305
    counts = {"thresholds": threshold_counts(probability, mask), "object_pixels": mask.sum()}
    page = made(SegmentationModel, counts)["Thresholds"]
    assert "Highest oIoU 100.0 %, at 0.3." in page and "Measured at 0.7:" in page and "as measured, at 0.7" in page
    counts = {"thresholds": threshold_counts(probability, mask & False), "object_pixels": torch.tensor(0)}
    assert "No sample has an object." in made(SegmentationModel, counts)["Thresholds"]


def test_distances_of_one_wall():
    truth = torch.full((500,), 3.0)
    counts = {"distances": distance_counts(1.1 * truth, truth, 10.0)}
    page = made(DepthModel, counts)["Error by distance"]
    assert "nan" not in page and page.count("<svg") == 3
    assert np.isfinite([float(value) for value in re.findall(r'cy="([\d.]+)"', page)]).all()


def test_samples_without_a_score_are_told():
    assert "1 of 2 samples have nothing that counts." in made(SegmentationModel, {})["Samples"]
