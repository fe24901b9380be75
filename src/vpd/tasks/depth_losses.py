"""What depth trains on: errors of pixels, and of the steps between them, as sums and weights (`vpd.tasks.losses`)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vpd.tasks.losses import LossSum, error_axes, log_ratio, measured_weight, silog_errors

SCALES = 4
"""Of `gradient_errors`; each has half the rows and columns of the one before."""


def depth_loss_sum(
    pred_m: Tensor,
    target_m: Tensor,
    *,
    over: Literal["batch", "image"],
    pixels: Literal["silog", "log_l1"] = "silog",
    gradient_weight: float = 0.0,
) -> LossSum:
    """Total of the loss over images in which something is measured, and their number, as `silog_loss_sum`.

    Args:
        pred_m: Predicted depth, `(b, 1, H, W)`, metres, > 0.
        target_m: True depth, same shape, metres; 0 marks pixels without a measurement.
        over: Whose pixels one error is taken over.
        pixels: `silog` as `silog_loss`, or `log_l1`: mean of |log target - log pred|.
        gradient_weight: Of `gradient_errors`, which are added.

    Raises:
        ValueError: If shapes differ.
    """
    log_diff, measured = log_ratio(pred_m, target_m)
    if pixels == "log_l1":
        axes = error_axes(log_diff, over)
        errors = log_diff.abs().sum(dim=axes) / measured.sum(dim=axes).clamp(min=1)
    else:
        errors = silog_errors(log_diff, measured, over=over)
    total = errors.sum()
    if gradient_weight:
        total = total + gradient_weight * gradient_errors(log_diff, measured, over=over).sum()
    return total, measured_weight(measured, over)


def gradient_errors(log_diff: Tensor, measured: Tensor, *, over: Literal["batch", "image"]) -> Tensor:
    """How far depth rises and falls otherwise than in truth: sharp where truth is sharp, smooth where it is smooth.

    With R = log target - log pred, the sum over scales of the mean of |R_right - R| + |R_below - R| over the measured
    pixels of that scale; differences count between two measured pixels. Scale k has every 2^k-th row and column.

    Args:
        log_diff: R, `(b, 1, H, W)`.
        measured: Where there is truth, same shape, bool.
        over: Whose pixels are averaged.

    Returns:
        `(b,)`, or a scalar over the batch.

    Source: Li and Snavely 2018 (MegaDepth), eq. 3 (https://arxiv.org/abs/1804.00607), each scale over its own pixels as
    in MiDaS (https://arxiv.org/abs/1907.01341).
    """
    total = log_diff.new_zeros(())
    for scale in range(SCALES):
        step = 2**scale
        part, known = log_diff[..., ::step, ::step], measured[..., ::step, ::step]
        axes = error_axes(log_diff, over)
        pixels = known.sum(dim=axes).clamp(min=1)
        for axis in (-2, -1):
            if part.shape[axis] > 1:
                count = part.shape[axis] - 1
                first, second = (known.narrow(axis, start, count) for start in (0, 1))
                total = total + (part.diff(dim=axis).abs() * (first & second)).sum(dim=axes) / pixels
    return total
