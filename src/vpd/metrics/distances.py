"""Errors of depth by true distance, as counts that add up exactly: quantiles follow from them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DISTANCES = 20
"""Equal steps of true depth up to the farthest that counts."""
_ERRORS = 400  # steps of the signed relative error from -1 to 1


def distance_counts(pred_m: Tensor, target_m: Tensor, far_m: float) -> Tensor:
    """Pixels of one picture by true depth and signed relative error, `(DISTANCES, steps)` int64.

    Args:
        pred_m: Depth of the pixels that count, metres, any shape.
        target_m: True depth of the same pixels, metres, > 0.
        far_m: Largest true depth that counts, metres.
    """
    errors = ((pred_m - target_m) / target_m).nan_to_num(nan=-1.0).clamp(-1, 1)
    columns = ((errors + 1) / 2 * _ERRORS).long().clamp(max=_ERRORS - 1)
    rows = (target_m / far_m * DISTANCES).long().clamp(0, DISTANCES - 1)
    cells = torch.bincount((rows * _ERRORS + columns).flatten(), minlength=DISTANCES * _ERRORS)
    return cells.reshape(DISTANCES, _ERRORS).cpu()


def error_quantiles(counts: Tensor, shares: tuple[float, ...], *, signed: bool) -> NDArray[np.float64]:
    """Relative error below which these shares of the pixels lie, by distance: `(DISTANCES, shares)`, NaN = no pixel.

    Args:
        counts: Sum of `distance_counts`.
        shares: In (0, 1), such as 0.5 for the median.
        signed: Negative = too near; else the size of the error alone.
    """
    cells = counts.numpy()
    centres = (np.arange(_ERRORS) + 0.5) / _ERRORS * 2 - 1
    if not signed:
        cells, centres = cells[:, _ERRORS // 2 :] + cells[:, : _ERRORS // 2][:, ::-1], centres[_ERRORS // 2 :]
    total, below = cells.sum(axis=1), cells.cumsum(axis=1)
    found = np.full((len(cells), len(shares)), np.nan)
    for row in np.flatnonzero(total):
        found[row] = centres[np.searchsorted(below[row], np.array(shares) * total[row])]
    return found
