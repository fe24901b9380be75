"""Whether a text fits anything in a picture, by the probabilities of its mask."""

from __future__ import annotations

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from vpd.config import PresenceCalibration
from vpd.errors import UsageError

_MOST_PX = 2**20  # of a larger map every n-th row and column
_EDGE = 1e-6  # log-odds of 0 and 1 are infinite


class Wanted(NamedTuple):
    """What a referring prediction says."""

    texts: list[str]
    """The expressions."""
    fitted: bool
    """Whether there is a mask at the size that the network sees too."""
    threshold: float
    """Probability above which a pixel belongs to the object."""
    min_presence: float
    """Below it nothing fits, and the mask is empty."""


def read_thresholds(
    threshold: float | None, min_presence: float | None, *, of_model: float | None = None
) -> tuple[float, float]:
    """Threshold of pixels and least presence; where they are not given, the model's, or 0.5, and 0.

    Raises:
        UsageError: If one is out of range.
    """
    threshold, min_presence = (of_model or 0.5) if threshold is None else threshold, min_presence or 0.0
    if not _is_number(threshold) or not 0 < threshold < 1:
        raise UsageError(f"threshold={threshold!r}: give a probability between 0 and 1, such as 0.5.")
    if not _is_number(min_presence) or not 0 <= min_presence <= 1:
        raise UsageError(f"min_presence={min_presence!r}: give a number from 0 (keep all) to 1, such as 0.5.")
    return threshold, min_presence


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def raw_presence(probability: Tensor) -> float:
    """Mean probability of the pixels, each weighted by its own: what a mask is made of, however small it is.

    Args:
        probability: `(H, W)` that a pixel belongs to the object.
    """
    step = math.ceil(math.sqrt(max(1.0, probability.numel() / _MOST_PX)))
    values = probability[::step, ::step].double()
    return float(values.square().sum() / values.sum().clamp(min=torch.finfo(values.dtype).tiny))


def calibrated(raw: float, calibration: PresenceCalibration | None) -> float:
    """Probability that the text fits anything; the raw score where there is no calibration."""
    if calibration is None:
        return raw
    return 1 / (1 + math.exp(-(calibration.slope * log_odds(raw) + calibration.offset)))


def log_odds(probability: float) -> float:
    """Of a probability, those next to 0 and 1 held off; NaN of NaN."""
    inside = min(max(probability, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))
