"""How far one gets without looking: what a score on the world must be compared with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vpd.data.sample import Sample, SampleSet
from vpd.evaluation.evaluate import evaluate
from vpd.metrics.depth import DepthMetrics
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.tasks.model import PerceptionModel
from vpd.world.dataset import WorldSamples

_TRAINING_SCENES = 100
"""From which the best constant is taken."""


def blind_score(model: PerceptionModel, samples: WorldSamples) -> float:
    """What an answer reaches that does not look at the picture, or does not listen to the expression.

    Args:
        model: Whose task it is; for `refer` it is given the expressions of other pictures.
        samples: What the model was measured on.

    Returns:
        mIoU of the most frequent class; RMSE of the mean depth, metres; or oIoU with exchanged expressions.
    """
    if samples.task == "refer":
        return float(evaluate(model, ExchangedTexts(samples), batch_size=10)["metrics"]["oIoU"])
    size = samples.size_px if isinstance(samples.size_px, int) else min(samples.size_px)
    train = WorldSamples(samples.task, "train", _TRAINING_SCENES, size)
    if samples.task == "segment":
        return majority_miou(train, samples)
    depths = [train[index].depth_m for index in range(len(train))]
    mean_m = float(np.mean(np.stack([depth for depth in depths if depth is not None])))
    metrics = DepthMetrics(max_depth_m=10.0)
    for index in range(len(samples)):
        truth = torch.from_numpy(samples[index].depth_m)
        metrics.update(torch.full_like(truth, mean_m), truth)
    return float(metrics.compute()["rmse"])  # type: ignore[arg-type]


def majority_miou(train_set: SampleSet, test_set: SampleSet) -> float:
    """The mIoU of the best constant answer, the most frequent class of the training scenes."""
    num_classes = len(train_set.classes)
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for sample in (train_set[index] for index in range(len(train_set))):
        labels = torch.from_numpy(sample.labels).long().flatten()
        counts += torch.bincount(labels, minlength=num_classes)[:num_classes]
    metrics = SegmentationMetrics(num_classes)
    for sample in (test_set[index] for index in range(len(test_set))):
        truth = torch.from_numpy(sample.labels)
        metrics.update(torch.full_like(truth, int(counts.argmax())), truth)
    return float(metrics.compute()["mIoU"])  # type: ignore[arg-type]


class ExchangedTexts(SampleSet):
    """A set in which every sample has the expressions of the next."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        other = self._samples[(index + 1) % len(self._samples)]
        return replace(self._samples[index], texts=other.texts)
