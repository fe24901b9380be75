"""The training losses of the tasks, as means, and as the sums and weights that these are made of.

Sums and weights of the parts of a batch, added up, are those of the whole batch: however a step is cut into parts
and processes, the sum of all totals over the sum of all weights is the same loss.

A batch in which nothing is labelled or measured has the loss 0, with gradients of 0: an unlucky crop must
neither stop a run nor put NaN into its weights, and no process of many may leave out its backward pass.
Losses are taken in float32 at least, whatever the type of the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL

LossSum = tuple[Tensor, Tensor]
"""Total and weight, two scalars: the loss is the one over the other, and 0 where the weight is."""

SegmentationLoss = Literal["cross_entropy", "focal", "dice", "cross_entropy_dice"]

_BY_ROWS_ON = ("cuda",)
_MOST_BY_ROWS = 2**31 - 1  # kernels of torch for this order count no further
_LEAST_DOUBT = 1e-12
_MIN_PRED_M = 1e-6  # a sigmoid that underflows to 0 must not make the logarithm infinite


def mean_loss(total: Tensor, weight: Tensor) -> Tensor:
    """The loss that a total and a weight stand for, a scalar."""
    return total / torch.where(weight > 0, weight, 1)


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    count_ignored: bool = False,
    kind: SegmentationLoss = "cross_entropy",
    class_weights: Sequence[float] | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Loss of pixels with a label: y is the label of a pixel, p_c its probability of class c, w_c the class's weight.

    * `cross_entropy`: sum of w_y * -log p_y over the sum of w_y.
    * `focal`: sum of w_y * (1 - p_y)^gamma * -log p_y over the sum of w_y: pixels that are easy hardly count.
    * `dice`: of each picture, 1 - D_c averaged by w_c over the classes that it has, D_c = 2 * (sum of p_c over pixels
      of c) / (sum of p_c over labelled pixels + pixels of c); then the mean over pictures in which anything weighs.
    * `cross_entropy_dice`: the mean over these pictures of cross-entropy, of each alone, plus Dice.

    Args:
        logits: `(b, n, H, W)`.
        labels: `(b, H, W)` int64 classes, 255 = ignored: such pixels count nowhere.
        count_ignored: Divide by all pixels (ignored ones weigh 1) as the reference does, so that the loss shrinks with
            the ignored share; for `cross_entropy` and `focal`.
        kind: As above.
        class_weights: Of the n classes; none = 1 each.
        gamma: Of `focal`; 0 = `cross_entropy`.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.

    Source: focal: Lin et al. 2017, eq. 5 (https://arxiv.org/abs/1708.02002), which divides by its anchors on objects.
    Dice: Milletari et al. 2016 (https://arxiv.org/abs/1606.04797), with the plain sums of Sudre et al. 2017
    (https://arxiv.org/abs/1707.03237) below; their sum with cross-entropy: Isensee et al. 2018
    (https://arxiv.org/abs/1809.10486).
    """
    options: dict[str, Any] = {"kind": kind, "class_weights": class_weights, "gamma": gamma}
    return mean_loss(*segmentation_loss_sum(logits, labels, count_ignored=count_ignored, **options))


def segmentation_loss_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    count_ignored: bool = False,
    kind: SegmentationLoss = "cross_entropy",
    class_weights: Sequence[float] | None = None,
    gamma: float = 2.0,
) -> LossSum:
    """Total of `segmentation_loss`, and what it is divided by: pixels, their weights, or pictures."""
    # without waiting for the device, which has the forward pass to do
    weights = None if class_weights is None else torch.tensor(class_weights).to(logits.device, non_blocking=True)
    if kind in ("dice", "cross_entropy_dice"):
        return _picture_loss_sum(logits, labels, weights, with_cross_entropy=kind == "cross_entropy_dice")
    is_labelled = labels != IGNORE_LABEL
    if kind == "focal":
        entropies = _cross_entropies(logits, labels)
        doubt = -torch.expm1(-entropies)  # 1 - p_y
        # of a pixel without doubt a power below 1 has no gradient
        total = (_of_pixels(weights, labels) * doubt.clamp(min=_LEAST_DOUBT) ** gamma * entropies).sum()
    else:
        total = _cross_entropy_sum(logits, labels, weights)
    weight = is_labelled.sum() if weights is None else _of_pixels(weights, labels).sum()
    return total, weight + (~is_labelled).sum() if count_ignored else weight


def overlapping_loss_sum(logits: Tensor, truth: Tensor, is_known: Tensor, *, kind: SegmentationLoss) -> LossSum:
    """Loss of classes of which each is asked for by itself: binary cross-entropies, and Dice where it is wanted.

    Of each picture: the mean of the cross-entropies over its known pixels and all classes; with `cross_entropy_dice`
    plus the mean of 1 - D_c (as in `segmentation_loss`) over the classes that it has.

    Args:
        logits: `(b, n, H, W)`.
        truth: The same shape, bool: whether the pixel fits the class.
        is_known: `(b, H, W)` bool; other pixels count nowhere.
        kind: `cross_entropy` or `cross_entropy_dice`.

    Returns:
        Total over the pictures in which anything is known, and their number.

    Raises:
        UsageError: If the kind is another.
    """
    if kind not in ("cross_entropy", "cross_entropy_dice"):
        raise UsageError(f"loss.kind={kind}: where classes overlap it is cross_entropy or cross_entropy_dice.")
    logits, known, axes = _at_least_float32(logits), is_known[:, None], (2, 3)
    target = truth.to(logits.dtype)
    entropies = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
    pixels = is_known.sum(dim=(1, 2))
    losses = entropies.sum(dim=(1, 2, 3)) / (pixels * logits.shape[1]).clamp(min=1)
    if kind == "cross_entropy_dice":
        probability, target = logits.sigmoid() * known, target * known
        of_class = target.sum(dim=axes)
        dice = 2 * (probability * target).sum(dim=axes) / (probability.sum(dim=axes) + of_class).clamp(min=1)
        is_there = of_class > 0
        losses = losses + ((1 - dice) * is_there).sum(dim=1) / is_there.sum(dim=1).clamp(min=1)
    return losses.sum(), (pixels > 0).sum()


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
    weights = torch.tensor(class_weights).to(logits.device, non_blocking=True)
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
    log_diff, measured = log_ratio(pred_m, target_m)
    return silog_errors(log_diff, measured, variance_focus, over=over).sum(), measured_weight(measured, over)


def silog_errors(
    log_diff: Tensor, measured: Tensor, variance_focus: float = 0.5, *, over: Literal["batch", "image"]
) -> Tensor:
    """`silog_loss` of what `log_ratio` gives: `(b,)`, or a scalar over the batch."""
    axes = error_axes(log_diff, over)
    pixels = measured.sum(dim=axes).clamp(min=1)
    mean, mean_square = log_diff.sum(dim=axes) / pixels, log_diff.square().sum(dim=axes) / pixels
    variance = mean_square - variance_focus * mean.square()
    exact = variance <= 0  # the root has no gradient at 0; false for NaN, which must show
    return torch.where(exact, 0, torch.where(exact, 1, variance).sqrt())


def measured_weight(measured: Tensor, over: Literal["batch", "image"]) -> Tensor:
    """Images in which something is measured; 1 for an error over the batch."""
    pixels = measured.sum(dim=error_axes(measured, over))
    return torch.ones_like(pixels) if over == "batch" else (pixels > 0).sum()


def error_axes(values: Tensor, over: Literal["batch", "image"]) -> tuple[int, ...]:
    """Axes of `(b, ...)` that one error is taken over."""
    return tuple(range(0 if over == "batch" else 1, values.ndim))


def log_ratio(pred_m: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of true over predicted depth, 0 where nothing is measured, and where something is.

    Raises:
        ValueError: If shapes differ.
    """
    if pred_m.shape != target_m.shape:
        raise ValueError(
            f"Predicted depth is {tuple(pred_m.shape)}, true depth is {tuple(target_m.shape)}; they must "
            "have the same shape, (b, 1, H, W)."
        )
    measured = target_m > 0
    pred, target = (_at_least_float32(torch.where(measured, depth, 1)) for depth in (pred_m, target_m))
    return target.log() - pred.clamp(min=_MIN_PRED_M).log(), measured


def _picture_loss_sum(logits: Tensor, labels: Tensor, weights: Tensor | None, *, with_cross_entropy: bool) -> LossSum:
    """Sum over pictures in which a class with a weight has pixels, and their number."""
    entropies = _cross_entropies(logits, labels)  # first, as it checks the shapes
    batch, number = logits.shape[:2]
    is_labelled = labels != IGNORE_LABEL
    probability = _at_least_float32(logits).softmax(dim=1) * is_labelled[:, None]
    places = torch.where(is_labelled, labels, 0).flatten(1)  # of an ignored pixel 0 is added to class 0
    own = probability.flatten(2).gather(1, places[:, None])[:, 0]
    none = probability.new_zeros(batch, number)
    pixels = none.scatter_add(1, places, is_labelled.flatten(1).to(none.dtype))
    dice = 2 * none.scatter_add(1, places, own) / (probability.sum(dim=(2, 3)) + pixels).clamp(min=1)
    of_class = (pixels > 0) * (1 if weights is None else weights)
    of_picture = of_class.sum(dim=1)
    losses = ((1 - dice) * of_class).sum(dim=1) / torch.where(of_picture > 0, of_picture, 1)
    if with_cross_entropy:
        of_pixel = _of_pixels(weights, labels) * is_labelled
        sums = (entropies * of_pixel).sum(dim=(1, 2)), of_pixel.sum(dim=(1, 2))
        losses = losses + mean_loss(*sums)
    return losses.sum(), (of_picture > 0).sum()


def _of_pixels(weights: Tensor | None, labels: Tensor) -> Tensor:
    """The weight of the class of each pixel `(b, H, W)`; 0 where it is ignored."""
    is_labelled = labels != IGNORE_LABEL
    return is_labelled * (1 if weights is None else weights[torch.where(is_labelled, labels, 0)])


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each pixel, `(b, H, W)`; 0 where it is ignored."""
    return _cross_entropy(logits, labels, None, reduction="none")


def _cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted sum over pixels that are not ignored."""
    return _cross_entropy(logits, labels, weights, reduction="sum")


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, *, reduction: str) -> Tensor:
    if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"Logits are {tuple(logits.shape)}, labels are {tuple(labels.shape)}; needed are (b, n, H, W) "
            "and (b, H, W). Resize the logits to the labels' size."
        )
    logits = _at_least_float32(logits)
    if weights is not None:
        weights = weights.to(logits.dtype)
    if not _lies_in_rows(logits):
        return F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_LABEL, reduction=reduction)
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
    # of rows, torch sums in one block of a GPU's threads alone; so it gives them all
    entropies = F.cross_entropy(rows, labels.flatten(), weights, ignore_index=IGNORE_LABEL, reduction="none")
    return entropies.view(labels.shape) if reduction == "none" else entropies.sum()


def _lies_in_rows(logits: Tensor) -> bool:
    """Whether a pixel's logits lie side by side on a GPU, where another view of them saves a copy of them all."""
    if logits.device.type not in _BY_ROWS_ON or logits.numel() > _MOST_BY_ROWS or logits.is_contiguous():
        return False
    return logits.is_contiguous(memory_format=torch.channels_last)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
