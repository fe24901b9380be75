"""Whether a mask marks the object that is meant, and not another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RIGHT_IOU = 0.5
"""IoU above which an object counts as marked."""


def is_marked(mask: NDArray[np.bool_], instances: NDArray[np.integer], index: int) -> bool:
    """Whether a mask is of an object, and more so than of any other.

    Args:
        mask: `(H, W)`.
        instances: `(H, W)`, 0 = no object, else the place of the object and 1.
        index: Place of the object that is meant.
    """
    ious = [_iou(mask, instances == number) for number in range(1, max(int(instances.max()), index + 1) + 1)]
    return ious[index] > RIGHT_IOU and ious[index] == max(ious)


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0
