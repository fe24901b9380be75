"""Depth: the nine errors of the NYU and KITTI benchmarks, their crops and valid ranges."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vpd.metrics.accumulator import Accumulator

Crop = Literal["nyu", "garg", "eigen"]
"""Part of an image that a benchmark counts: Eigen's for NYU, Garg's or Eigen's for KITTI."""

ERRORS = ("d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")
"""Names of the errors, in the order of `depth_errors`."""
EDGE_JUMP = 1.1
"""Far over near, of two neighbours between which there is an edge."""
EDGE_PX = 3
"""Pixels on either side of an edge that count as near it."""
EDGE_ERRORS = ("rmse", "abs_rel")
"""Those of `ERRORS` that are taken near edges."""
EDGES = "_edges"
"""Ending of their names."""


def crop_window(crop: Crop | None, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a depth map that a benchmark counts; after `kb_crop` where that is used.

    `nyu`: rows 45:471, columns 41:601, made for 480x640; `garg`, `eigen`: fractions of the size, for KITTI; none: all.

    Raises:
        ValueError: If the crop is unknown, or nothing is left of a map of this size.
    """
    if crop is None:
        return slice(0, height), slice(0, width)
    if crop == "nyu":
        top, bottom, left, right = 45, min(471, height), 41, min(601, width)
    elif crop == "garg":
        top, bottom = int(0.40810811 * height), int(0.99189189 * height)
        left, right = int(0.03594771 * width), int(0.96405229 * width)
    elif crop == "eigen":
        top, bottom = int(0.3324324 * height), int(0.91351351 * height)
        left, right = int(0.0359477 * width), int(0.96405229 * width)
    else:
        raise ValueError(f"Unknown crop {crop!r}. Choose one of: {', '.join(get_args(Crop))}, or none.")
    if bottom <= top or right <= left:
        raise ValueError(f"Nothing is left of a {height}x{width} map in crop {crop!r}: evaluate without a crop.")
    return slice(top, bottom), slice(left, right)


def kb_crop(maps: Tensor) -> Tensor:
    """KITTI benchmark crop of an image or depth map: `(..., H, W) -> (..., 352, 1216)`, bottom and centre.

    Raises:
        ValueError: If a side is too small.
    """
    height, width = maps.shape[-2:]
    if height < 352 or width < 1216:
        raise ValueError(f"Image is {height}x{width}; the KITTI benchmark crop needs at least 352x1216.")
    top, left = height - 352, (width - 1216) // 2
    return maps[..., top:, left : left + 1216]


def evaluated_pixels(
    pred_m: Tensor, target_m: Tensor, *, min_depth_m: float, max_depth_m: float, crop: Crop | None = None
) -> tuple[Tensor, Tensor]:
    """Predicted and true depth of the pixels of the crop with min_depth_m < target_m < max_depth_m, all in metres.

    Infinite predictions become `max_depth_m` and NaN `min_depth_m` first; nothing is clipped to the range. Two maps
    `(H, W)` or `(1, H, W)` -> two float64 vectors of the same length.

    Raises:
        ValueError: If shapes differ, and as `crop_window`.
    """
    if pred_m.shape != target_m.shape:
        raise ValueError(
            f"Predicted depth is {tuple(pred_m.shape)}, true depth is {tuple(target_m.shape)}; they must "
            "have the same shape. Crop or resize the prediction to the true depth."
        )
    rows, columns = crop_window(crop, *target_m.shape[-2:])
    pred, target = pred_m[..., rows, columns].double(), target_m[..., rows, columns].double()
    pred = torch.nan_to_num(pred, nan=min_depth_m, posinf=max_depth_m, neginf=max_depth_m)
    counted = (target > min_depth_m) & (target < max_depth_m)
    return pred[counted], target[counted]


def near_edges(target_m: Tensor) -> Tensor:
    """Pixels that lie within 3 px of an edge of true depth, on either side of it.

    An edge runs between two pixels, side by side or one above the other, of which one is more than `EDGE_JUMP` times
    as far as the other; both must be measured.

    Args:
        target_m: True depth, `(H, W)` or `(1, H, W)`, metres; 0 marks pixels without a measurement.

    Returns:
        Bool, of the same shape.

    Source: the ratio as in Bochkovskii et al. 2024 (Depth Pro), section 3.2 (https://arxiv.org/abs/2410.02073).
    """
    beside = torch.zeros_like(target_m, dtype=torch.bool)
    for axis in (-2, -1):
        steps = target_m.shape[axis] - 1
        first, second = target_m.narrow(axis, 0, steps), target_m.narrow(axis, 1, steps)
        near, far = torch.minimum(first, second), torch.maximum(first, second)
        is_edge = (near > 0) & (far > EDGE_JUMP * near)
        for start in (0, 1):
            beside.narrow(axis, start, steps).logical_or_(is_edge)
    reach = EDGE_PX - 1  # the pixels beside the edge are the first
    grown = F.max_pool2d(beside.reshape(1, 1, *target_m.shape[-2:]).float(), 2 * reach + 1, stride=1, padding=reach)
    return grown.reshape(target_m.shape) > 0


def depth_errors(pred_m: Tensor, target_m: Tensor) -> Tensor:
    """The nine errors of one image, in the order of `ERRORS`.

    `d1`..`d3`: share of pixels whose ratio to the truth is below 1.25, 1.25^2, 1.25^3; `silog` has the
    training loss's weight 0.5. A prediction of 0 or less makes the logarithmic errors infinite or NaN.

    Args:
        pred_m: Depth of the pixels that count, metres, any shape.
        target_m: True depth of the same pixels, metres, > 0.

    Returns:
        `(9,)` of the inputs' type; NaN if there is no pixel.

    Source: Eigen et al. 2014, section 4.2 (https://arxiv.org/abs/1406.2283).
    """
    ratio = torch.where(pred_m > 0, torch.maximum(target_m / pred_m, pred_m / target_m), torch.inf)
    within = [(ratio < 1.25**power).to(pred_m.dtype).mean() for power in (1, 2, 3)]
    diff, log_diff = pred_m - target_m, pred_m.log() - target_m.log()
    squared_log = log_diff.square().mean()
    return torch.stack(
        [
            *within,
            (diff.abs() / target_m).mean(),
            (diff.square() / target_m).mean(),
            diff.square().mean().sqrt(),
            squared_log.sqrt(),
            (pred_m.log10() - target_m.log10()).abs().mean(),
            (squared_log - 0.5 * log_diff.mean().square()).sqrt(),
        ]
    )


class DepthMetrics(Accumulator):
    """The nine errors of each image, averaged over images (not pixels); those without a pixel that counts are left out.

    Args:
        min_depth_m: Smallest true depth that counts, metres.
        max_depth_m: Largest true depth that counts, metres (10 for NYU, 80 for KITTI).
        crop: See `crop_window`.
    """

    COUNT = "images"

    def __init__(self, *, min_depth_m: float = 1e-3, max_depth_m: float = 10.0, crop: Crop | None = None):
        self.min_depth_m = min_depth_m
        self.max_depth_m = max_depth_m
        self.crop = crop
        self.totals = torch.zeros(len(ERRORS) + 1, dtype=torch.float64)  # sum of each error, images

    def row(self, pred_m: Tensor, target_m: Tensor) -> Tensor:
        """The errors of one image `(H, W)` or `(1, H, W)`, metres, and 1; zeros where no pixel counts: `(10,)`.

        Raises:
            ValueError: As `evaluated_pixels`.
        """
        pred, target = self.counted(pred_m, target_m)
        if not target.numel():
            return torch.zeros_like(self.totals)
        errors = depth_errors(pred, target).cpu()
        return torch.cat([errors, torch.ones_like(errors[:1])])

    def counted(self, pred_m: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted and true depth of the pixels that count, as `evaluated_pixels` has them."""
        return evaluated_pixels(
            pred_m, target_m, min_depth_m=self.min_depth_m, max_depth_m=self.max_depth_m, crop=self.crop
        )

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """Mean of each of `ERRORS`, and `images`, how many were counted; totals `(..., 10)`."""
        *errors, images = totals.unbind(dim=-1)
        return {name: error / images for name, error in zip(ERRORS, errors, strict=True)} | {"images": images}


class EdgeMetrics(DepthMetrics):
    """`EDGE_ERRORS` of the pixels near edges of true depth (`near_edges`), averaged over the images that have some.

    Args:
        min_depth_m: As for `DepthMetrics`.
        max_depth_m: As for `DepthMetrics`.
        crop: As for `DepthMetrics`; edges at its border count with what of them is inside.
    """

    def row(self, pred_m: Tensor, target_m: Tensor) -> Tensor:
        """As for `DepthMetrics`; zeros where there is no edge."""
        if pred_m.shape == target_m.shape:
            target_m = torch.where(near_edges(target_m), target_m, 0)
        return super().row(pred_m, target_m)

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """Mean of each of `EDGE_ERRORS`, and `images`, how many have edges; totals `(..., 10)`."""
        values = super().values(totals)
        return {name: values[name] for name in (*EDGE_ERRORS, "images")}
