"""Masks at every threshold of their probability: precision, recall and IoU."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 100
"""Thresholds are 0, 1 / STEPS, ..., 1."""
FOUND = 0.5
"""IoU from which a mask counts as found."""
CUTS = range(5, STEPS, 5)
"""Of the thresholds, those at which a model's masks may be cut: 0.05 to 0.95."""


def threshold_counts(probability: Tensor, mask: Tensor) -> Tensor:
    """What one picture adds, `(3, STEPS + 1)` int64.

    Pixels of the object and pixels outside it with a probability above each threshold, and whether the mask at that
    threshold has an IoU of at least `FOUND`.

    Args:
        probability: `(H, W)` in [0, 1].
        mask: `(H, W)`, nonzero inside the object.
    """
    passed = (probability * STEPS).ceil().clamp(0, STEPS).long()  # of the thresholds, how many lie below it
    inside = mask != 0
    above = torch.stack([_above(passed[inside]), _above(passed[~inside])])
    union = inside.sum() + above[1]
    found = (above[0] >= FOUND * union) & (union > 0)
    return torch.cat([above, found[None].long()])


def _above(passed: Tensor) -> Tensor:
    """How many values passed each threshold, `(STEPS + 1,)`."""
    counts = torch.bincount(passed, minlength=STEPS + 1)
    return counts.sum() - counts.cumsum(dim=0)


def threshold_curves(counts: Tensor, *, pixels: int, samples: int) -> dict[str, Tensor]:
    """`precision`, `recall`, `oIoU` and `P@0.5` by threshold, `(STEPS + 1,)` float64 each; NaN where nothing counts.

    Args:
        counts: Sum of `threshold_counts`.
        pixels: Of all objects together.
        samples: How many masks were counted.
    """
    right, wrong, found = counts.double()
    return {
        "precision": right / (right + wrong),
        "recall": right / pixels,
        "oIoU": right / (pixels + wrong),
        "P@0.5": found / samples,
    }


def best_cut(counts: Tensor, *, pixels: int) -> float | None:
    """Of `CUTS` the threshold of the highest oIoU, of equal ones that next to 0.5; none where no object has pixels.

    Args:
        counts: As for `threshold_curves`.
        pixels: Likewise.
    """
    if not pixels:
        return None
    overall = threshold_curves(counts, pixels=pixels, samples=1)["oIoU"].tolist()
    return max(sorted(CUTS, key=lambda cut: abs(cut - STEPS // 2)), key=lambda cut: overall[cut]) / STEPS
