"""What is wrong with a prediction, in a few words: so that failures can be told apart, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vpd.tensors import IGNORE_LABEL

_MOSTLY = 0.5
_ONE_WAY = 0.7  # of the size of the errors, from which the median is more than noise about right


@dataclass(frozen=True)
class Diagnosis:
    """What an evaluation is told of a sample beside its metrics."""

    kind: str = ""
    """Kind of its largest error; empty = nothing is wrong, or nobody said."""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """By name, what adds up over samples, int64: `confusion` `(n, n)`, `thresholds`, `object_pixels`, `distances`."""


def label_failure(predicted: NDArray[np.integer], labels: NDArray[np.integer], classes: Sequence[str]) -> str:
    """The class that most wrong pixels have, and what they were taken for; both `(H, W)`."""
    is_wrong = (labels != IGNORE_LABEL) & (predicted != labels)
    names = [*classes, "no class"]  # of classes that may overlap, none may fit
    guesses = np.minimum(predicted[is_wrong].astype(np.int64), len(classes))
    pairs, counts = np.unique(labels[is_wrong].astype(np.int64) * len(names) + guesses, return_counts=True)
    if not pairs.size:
        return ""
    truth, guess = divmod(int(pairs[counts.argmax()]), len(names))
    return f"{names[truth]} taken for {names[guess]}"


def mask_failure(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> str:
    """How a mask misses the true one; both `(H, W)`."""
    both, marked, wanted = int((predicted & mask).sum()), int(predicted.sum()), int(mask.sum())
    if marked == wanted == both:
        return ""
    if not wanted:
        return "marked, though there is no such object"
    if not marked:
        return "nothing marked"
    if not both:
        return "something else marked"
    precision, recall = both / marked, both / wanted
    if precision >= _MOSTLY and recall >= _MOSTLY:
        return "outline not right"
    if recall >= _MOSTLY:
        return "the object and more"
    return "only a part of it" if precision >= _MOSTLY else "a part of it and something else"


def depth_failure(pred_m: Tensor, target_m: Tensor) -> str:
    """Where depth is wrong, and in which direction; metres of the pixels that count, any shape, truth > 0."""
    if not target_m.numel():
        return ""
    ratio = (pred_m.clamp(min=1e-6) / target_m).log().nan_to_num().numpy()
    is_far = (target_m > target_m.median()).numpy()
    parts = {"far half": ratio[is_far], "near half": ratio[~is_far]}
    directions = {_direction(part) for part in parts.values() if part.size}
    if len(directions) == 1 and (direction := directions.pop()):
        return f"all of it {direction}"
    name, part = max(parts.items(), key=lambda item: float(np.abs(item[1]).sum()))
    return f"{name} {_direction(part) or 'here too near, there too far'}"


def _direction(ratio: NDArray[np.floating]) -> str | None:
    """Whether most of the error goes one way; logarithms of predicted over true depth."""
    middle, size = float(np.median(ratio)), float(np.median(np.abs(ratio)))
    if not size or abs(middle) < _ONE_WAY * size:
        return None
    return "too far" if middle > 0 else "too near"
