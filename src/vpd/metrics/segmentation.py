"""Semantic segmentation: confusion matrix, IoU and accuracy of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from vpd.metrics.accumulator import Accumulator
from vpd.tensors import IGNORE_LABEL


def reduce_zero_label(labels: Tensor) -> Tensor:
    """ADE20K's labels 0..150 -> 0..149 with 0, "other objects", ignored; any shape, 255 stays ignored.

    Raises:
        ValueError: If the labels are not uint8: the rule wraps around at 255.
    """
    if labels.dtype != torch.uint8:
        raise ValueError(f"Labels are {labels.dtype}; the zero label is reduced in uint8. Cast them first.")
    reduced = torch.where(labels == 0, IGNORE_LABEL, labels).to(torch.uint8) - 1  # 255 -> 254 for a moment
    return torch.where(reduced == IGNORE_LABEL - 1, IGNORE_LABEL, reduced).to(torch.uint8)


def confusion_matrix(pred: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels by true (rows) and predicted class (columns), `(n, n)` int64.

    Args:
        pred: Predicted classes, any shape, integers in 0..num_classes - 1; 255 = none, which is in no column.
        labels: True classes, same shape; 255 = ignored.
        num_classes: `n`.

    Raises:
        ValueError: If shapes differ, or a counted pixel has a class outside 0..num_classes - 1.
    """
    if pred.shape != labels.shape:
        raise ValueError(
            f"Prediction is {tuple(pred.shape)}, labels are {tuple(labels.shape)}; they must have the same "
            "shape. Resize the logits to the labels' size, never the labels."
        )
    counted = labels != IGNORE_LABEL
    truth, guess = labels[counted].long(), pred[counted].long()
    is_none = guess == IGNORE_LABEL
    for name, classes in (("Labels", truth), ("Predictions", guess[~is_none])):
        if not classes.numel():
            continue
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{name} hold classes {low}..{high}; there are {num_classes}: 0..{num_classes - 1}, and "
                f"{IGNORE_LABEL} for ignored pixels. Check the class list."
            )
    cells = torch.bincount((truth * num_classes + guess)[~is_none], minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


class SegmentationMetrics(Accumulator):
    """mIoU, mAcc, aAcc and the values of each class, over all pixels of a data set.

    A class in neither prediction nor labels has IoU NaN; a class without labels has accuracy NaN. NaNs are
    left out of the means. All values are shares, not per cent.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.totals = torch.zeros(3, num_classes, dtype=torch.int64)

    def row(self, pred: Tensor, labels: Tensor) -> Tensor:
        """Pixels of each class, `(3, n)` int64: right, predicted, true; 255 = ignored in `labels`, none in `pred`.

        Raises:
            ValueError: As `confusion_matrix`.
        """
        confusion = confusion_matrix(pred, labels, self.num_classes).cpu()
        true = torch.bincount(labels[labels != IGNORE_LABEL].long(), minlength=self.num_classes).cpu()
        return torch.stack([confusion.diagonal(), confusion.sum(dim=0), true])

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """`mIoU`, `mAcc`, `aAcc`, and `IoU`, `Acc` in the order of the classes; totals `(..., 3, n)`."""
        intersection, predicted, true = totals.double().unbind(dim=-2)
        iou, accuracy = intersection / (predicted + true - intersection), intersection / true  # 0 / 0 = NaN: absent
        return {
            "mIoU": iou.nanmean(dim=-1),
            "mAcc": accuracy.nanmean(dim=-1),
            "aAcc": intersection.sum(dim=-1) / true.sum(dim=-1),
            "IoU": iou,
            "Acc": accuracy,
        }
