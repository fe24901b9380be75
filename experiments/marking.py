"""Whether a mask marks the object that is meant, and not another."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vpd.metrics.referring import mask_areas, mask_iou

RIGHT_IOU = 0.5
"""IoU above which an object counts as marked."""


def is_marked(mask: NDArray[np.bool_], instances: NDArray[np.integer], index: int) -> bool:
    """Whether a mask is of an object, and more so than of any other.

    Args:
        mask: `(H, W)`.
        instances: `(H, W)`, 0 = no object, else the place of the object and 1.
        index: Place of the object that is meant.
    """
    pred, numbers = torch.from_numpy(mask), range(1, max(int(instances.max()), index + 1) + 1)
    ious = [float(mask_iou(*mask_areas(pred, torch.from_numpy(instances == number)))) for number in numbers]
    return ious[index] > RIGHT_IOU and ious[index] == max(ious)
