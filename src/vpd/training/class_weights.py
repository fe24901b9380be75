"""Weights of classes from how often they are seen in the training samples."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.tasks.loss_settings import LossSettings

logger = logging.getLogger(__name__)

COUNTED = 512
"""Samples in which pixels are counted, at most: evenly spread over the data."""


def counted_loss(loss: LossSettings, model: Any, samples: SampleSet) -> LossSettings:
    """The same settings with nothing left to count, held against the classes of the model.

    Raises:
        UsageError: If given weights do not fit the classes, or no sample has a labelled pixel.
    """
    if loss.class_weights is None:
        return loss
    classes = model.config.classes
    if loss.class_weights == "frequency":
        logger.info("Counting the pixels of each class in %d samples.", min(COUNTED, len(samples)))
        weights = median_frequency_weights(*count_pixels(samples, len(classes)))
        loss = loss.model_copy(update={"class_weights": dict(zip(classes, map(_short, weights), strict=True))})
    told = zip(classes, loss.weights_of(classes) or (), strict=True)
    logger.info("Weights of the classes: %s.", ", ".join(f"{name} {weight:g}" for name, weight in told))
    return loss


def count_pixels(samples: SampleSet, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels `(n,)` of each class, and labelled pixels `(n,)` of the samples that have the class, in some of them.

    Samples that cannot be read are left out; training names them.
    """
    pixels, among = np.zeros(number, np.int64), np.zeros(number, np.int64)
    looked_at = min(COUNTED, len(samples))
    for place in range(looked_at):
        try:
            labels = samples[place * len(samples) // looked_at].labels
        except UsageError:
            continue
        if labels is not None:
            counts = np.bincount(labels.ravel(), minlength=number)[:number]
            pixels += counts
            among += np.where(counts > 0, counts.sum(), 0)
    return pixels, among


def median_frequency_weights(pixels: NDArray[np.int64], among: NDArray[np.int64]) -> list[float]:
    """Median-frequency balancing: the median of the classes' frequencies over the frequency of each.

    The frequency of a class is its share of the labelled pixels of the samples that have it. A class that was not seen
    gets the largest of the weights.

    Args:
        pixels: Of each class, `(n,)`.
        among: Labelled pixels of the samples that have the class, `(n,)`.

    Raises:
        UsageError: If nothing was seen.

    Source: Eigen and Fergus 2015, section 6.3.2 (https://arxiv.org/abs/1411.4734).
    """
    seen = pixels > 0
    if not seen.any():
        raise UsageError("loss.class_weights=frequency: no labelled pixel was found in the training samples.")
    frequency = pixels[seen] / among[seen]
    weights = np.full(len(pixels), np.median(frequency) / frequency.min())
    weights[seen] = np.median(frequency) / frequency
    return [float(weight) for weight in weights]


def _short(weight: float) -> float:
    return float(f"{weight:.4g}")
