"""The training losses of the tasks, as means, and as the sums and weights that these are made of.

Sums and weights of the parts of a batch, added up, are those of the whole batch: however a step is cut into parts
and processes, the sum of all totals over the sum of all weights is the same loss.

A batch in which nothing is labelled or measured has the loss 0, with gradients of 0: an unlucky crop must
neither stop a run nor put NaN into its weights, and no process of many may leave out its backward pass.
Losses are taken in float32 at least, whatever the type of the prediction.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vpd.tensors import IGNORE_LABEL

LossSum = tuple[Tensor, Tensor]
"""Total and weight, two scalars: the loss is the one over the other, and 0 where the weight is."""

_MIN_PRED_M = 1e-6  # a sigmoid that underflows to 0 must not make the logarithm infinite


def mean_loss(total: Tensor, weight: Tensor) -> Tensor:
    """The loss that a total and a weight stand for, a scalar."""
    return total / torch.where(weight > 0, weight, 1)


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
    return mean_loss(*segmentation_loss_sum(logits, labels, count_ignored=count_ignored))


def segmentation_loss_sum(logits: Tensor, labels: Tensor, *, count_ignored: bool = False) -> LossSum:
    """Total of `segmentation_loss` over pixels, and the number of pixels that it is divided by."""
    total = _cross_entropy_sum(logits, labels)
    return total, torch.ones_like(labels).sum() if count_ignored else (labels != IGNORE_LABEL).sum()


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
    return mean_loss(*referring_loss_sum(logits, masks, class_weights=class_weights))


def referring_loss_sum(logits: Tensor, masks: Tensor, *, class_weights: tuple[float, float] = (0.9, 1.1)) -> LossSum:
    """Total of `referring_loss` over pixels, and the sum of their class weights."""
    weights = torch.tensor(class_weights, device=logits.device)
    total = _cross_entropy_sum(logits, masks, weights)
    background, inside = (masks == 0).sum(), (masks == 1).sum()
    return total, background * class_weights[0] + inside * class_weights[1]


def silog_loss(
    pred_m: Tensor, target_m: Tensor, variance_focus: float = 0.5, *, over: Literal["batch", "image"] = "batch"
) -> Tensor:
    """Scale-invariant log error between two depth maps.

    Args:
        pred_m: Predicted depth, `(b, 1, H, W)`, metres, > 0.
        target_m: True depth, same shape, metres; 0 marks pixels without a measurement.
        variance_focus: Weight of the mean term; 0 = plain RMSE of logs, 1 = fully scale-invariant.
        over: `batch`: one error over all measured pixels of the batch, as published; `image`: one for each image,
            averaged over the images in which something is measured.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes differ.

    Source: Eigen et al. 2014, eq. 4 (https://arxiv.org/abs/1406.2283), with a square root.
    """
    return mean_loss(*silog_loss_sum(pred_m, target_m, variance_focus, over=over))


def silog_loss_sum(
    pred_m: Tensor, target_m: Tensor, variance_focus: float = 0.5, *, over: Literal["batch", "image"]
) -> LossSum:
    """Total of `silog_loss` over images in which something is measured, and their number.

    Over the batch it is the root of the batch's statistics, which is no sum: the weight then is 1, so that batches
    of any size count the same.
    """
    if pred_m.shape != target_m.shape:
        raise ValueError(
            f"Predicted depth is {tuple(pred_m.shape)}, true depth is {tuple(target_m.shape)}; they must "
            "have the same shape, (b, 1, H, W)."
        )
    measured = target_m > 0
    pred, target = (_at_least_float32(torch.where(measured, depth, 1)) for depth in (pred_m, target_m))
    log_diff = target.log() - pred.clamp(min=_MIN_PRED_M).log()  # 0 where nothing is measured
    axes = tuple(range(0 if over == "batch" else 1, pred_m.ndim))
    measured_pixels = measured.sum(dim=axes)
    pixels = measured_pixels.clamp(min=1)
    mean, mean_square = log_diff.sum(dim=axes) / pixels, log_diff.square().sum(dim=axes) / pixels
    variance = mean_square - variance_focus * mean.square()
    exact = variance <= 0  # the root has no gradient at 0; false for NaN, which must show
    errors = torch.where(exact, 0, torch.where(exact, 1, variance).sqrt())
    return errors.sum(), torch.ones_like(pixels) if over == "batch" else (measured_pixels > 0).sum()


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
