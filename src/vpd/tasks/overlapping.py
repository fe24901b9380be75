"""Classes that may overlap, `red things; cubes; floor`: each is asked for by itself, a pixel may fit several or none.

With exclusive classes a pixel gets the most probable one. Where they overlap, which of two right ones is more probable
means nothing and changes from pixel to pixel, so the order of the list decides, and a user can say what goes first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpd.tasks.losses import LossSum, SegmentationLoss, overlapping_loss_sum
from vpd.tensors import IGNORE_LABEL

LEAST_PROBABILITY = 0.5
"""Above it a pixel fits a class."""


def class_probabilities(logits: Tensor, *, overlap: bool | None) -> Tensor:
    """Logits `(n, ...)` -> probabilities; over all classes they sum to 1 unless classes overlap."""
    return logits.sigmoid() if overlap else logits.softmax(dim=0)


def class_labels(probability: Tensor, *, overlap: bool | None) -> Tensor:
    """Probabilities `(n, ...)` -> labels `(...)`: the most probable class, or the first that fits; 255 = none does.

    With more than 255 classes a pixel that none fits gets 65,535.
    """
    if not overlap:
        return probability.argmax(dim=0)
    fits = probability > LEAST_PROBABILITY
    first = fits.to(torch.uint8).argmax(dim=0)  # of equal ones argmax takes the first
    return torch.where(fits.any(dim=0), first, no_class(len(probability)))


def no_class(num_classes: int) -> int:
    """Label of pixels that none of so many classes fits."""
    return IGNORE_LABEL if num_classes <= IGNORE_LABEL else 2**16 - 1


def one_class_loss_sum(logits: Tensor, labels: Tensor, *, kind: SegmentationLoss) -> LossSum:
    """`overlapping_loss_sum` of labels `(b, H, W)`, 255 = ignored: every pixel fits its class, and no other.

    Raises:
        IndexError: If a label is no class.
    """
    number, is_known = logits.shape[1], labels != IGNORE_LABEL
    if bool((is_known & ((labels < 0) | (labels >= number))).any()):
        raise IndexError(f"A label is outside 0..{number - 1}.")
    truth = labels[:, None] == torch.arange(number, device=labels.device)[:, None, None]
    return overlapping_loss_sum(logits, truth, is_known, kind=kind)
