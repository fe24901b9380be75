"""Referring segmentation: IoU of each sentence, overall IoU, precision at IoU thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from vpd.metrics.accumulator import Accumulator

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoU from which a sentence counts as found, in the published tables."""


def mask_areas(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in both and in either of two masks `(..., H, W)`, nonzero = inside; `(...)` int64 each.

    Raises:
        ValueError: If shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(
            f"Predicted masks are {tuple(pred.shape)}, true masks are {tuple(target.shape)}; they must have "
            "the same shape. Resize both to one size, and repeat the true mask for each sentence."
        )
    inside, wanted = pred != 0, target != 0
    return (inside & wanted).sum(dim=(-2, -1)), (inside | wanted).sum(dim=(-2, -1))


def mask_iou(intersection: Tensor, union: Tensor) -> Tensor:
    """Intersection over union, float64; 0 where both masks are empty, as in the reference."""
    return intersection.double() / union.clamp(min=1)


class ReferringMetrics(Accumulator):
    """Overall IoU, mean IoU and precision over sentences; every sentence is one sample.

    `oIoU` divides summed intersections by summed unions, so large objects weigh more; `mIoU` is the mean over
    sentences; `P@X` is the share of sentences with IoU >= X. All values are shares, not per cent.
    """

    COUNT = "sentences"

    def __init__(self) -> None:
        # intersection, union, IoU, sentences, hits at each threshold; float64 counts exactly up to 2^53
        self.totals = torch.zeros(4 + len(THRESHOLDS), dtype=torch.float64)

    def row(self, pred: Tensor, target: Tensor) -> Tensor:
        """Sums of one sentence with masks `(H, W)`, or of several with `(b, H, W)`: `(9,)` float64.

        Raises:
            ValueError: As `mask_areas`.
        """
        intersection, union = (area.reshape(-1).cpu() for area in mask_areas(pred, target))
        iou = mask_iou(intersection, union)
        hits = [(iou >= threshold).double() for threshold in THRESHOLDS]
        sums = [intersection.double(), union.double(), iou, torch.ones_like(iou), *hits]
        return torch.stack(sums).sum(dim=1)

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """`oIoU`, `mIoU`, `P@0.5` .. `P@0.9`, and `sentences`, how many were counted; totals `(..., 9)`."""
        intersection, union, iou, sentences, *hits = totals.unbind(dim=-1)
        overall = mask_iou(intersection, union).where(sentences > 0, torch.nan)
        precision = {f"P@{t}": hit / sentences for t, hit in zip(THRESHOLDS, hits, strict=True)}
        return {"oIoU": overall, "mIoU": iou / sentences, **precision, "sentences": sentences}
