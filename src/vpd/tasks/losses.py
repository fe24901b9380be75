"""The training losses of the three tasks.

A batch in which nothing is labelled or measured has the loss 0, with gradients of 0: an unlucky crop must
neither stop a run nor put NaN into its weights, and no process of many may leave out its backward pass.
Losses are taken in float32 at least, whatever the type of the prediction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vpd.types import IGNORE_LABEL

_MIN_PRED_M = 1e-6  # a sigmoid that underflows to 0 must not make the logarithm infinite


def segmentation_loss(logits: Tensor, labels: Tensor, *, count_ignored: bool = False) -> Tensor:
    """Cross-entropy of pixels with a label.

    Args:
        logits: `(b, n, H, W)`.
        labels: `(b, H, W)` int64 classes, 255 = ignored.
        count_ignored: Divide by all pixels as the reference does, so that the loss shrinks with the ignored
            share; otherwise by the labelled ones.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    total = _cross_entropy_sum(logits, labels)
    pixels = labels.numel() if count_ignored else (labels != IGNORE_LABEL).sum().clamp(min=1)
    return total / pixels


def referring_loss(logits: Tensor, masks: Tensor, *, class_weights: tuple[float, float] = (0.9, 1.1)) -> Tensor:
    """Cross-entropy of background and object, averaged with the weights of the classes.

    Args:
        logits: `(b, 2, H, W)`: background, object.
        masks: `(b, H, W)` int64, 1 inside the object; 255 = ignored.
        class_weights: Weight of background and of object; the reference's favour the object a little.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    weights = torch.tensor(class_weights, device=logits.device)
    total = _cross_entropy_sum(logits, masks, weights)
    background, inside = (masks == 0).sum(), (masks == 1).sum()
    weight = background * class_weights[0] + inside * class_weights[1]
    return total / torch.where(weight > 0, weight, 1)


def silog_loss(pred_m: Tensor, target_m: Tensor, variance_focus: float = 0.5) -> Tensor:
    """Scale-invariant log error between two depth maps, over all measured pixels of the batch.

    Args:
        pred_m: Predicted depth, `(b, 1, H, W)`, metres, > 0.
        target_m: True depth, same shape, metres; 0 marks pixels without a measurement.
        variance_focus: Weight of the mean term; 0 = plain RMSE of logs, 1 = fully scale-invariant.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes differ.

    Source: Eigen et al. 2014, eq. 4 (https://arxiv.org/abs/1406.2283), with a square root.
    """
    if pred_m.shape != target_m.shape:
        raise ValueError(
            f"Predicted depth is {tuple(pred_m.shape)}, true depth is {tuple(target_m.shape)}; they must "
            "have the same shape, (b, 1, H, W)."
        )
    measured = target_m > 0
    pred, target = (_at_least_float32(torch.where(measured, depth, 1)) for depth in (pred_m, target_m))
    log_diff = target.log() - pred.clamp(min=_MIN_PRED_M).log()  # 0 where nothing is measured
    pixels = measured.sum().clamp(min=1)
    mean, mean_square = log_diff.sum() / pixels, log_diff.square().sum() / pixels
    variance = mean_square - variance_focus * mean.square()
    exact = variance <= 0  # the root has no gradient at 0; false for NaN, which must show
    return torch.where(exact, 0, torch.where(exact, 1, variance).sqrt())


def _cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted sum over pixels that are not ignored."""
    if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"Logits are {tuple(logits.shape)}, labels are {tuple(labels.shape)}; needed are (b, n, H, W) "
            "and (b, H, W). Resize the logits to the labels' size."
        )
    logits = _at_least_float32(logits)
    if weights is not None:
        weights = weights.to(logits.dtype)
    return F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_LABEL, reduction="sum")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
