"""Settings of the loss, with which training tells a task what to minimise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import NonNegativeFloat, field_validator

from vpd.config import Frozen
from vpd.errors import UsageError


class LossSettings(Frozen):
    """What `segment` minimises, for classes that are rare or thin; formulas: `vpd.tasks.losses`."""

    kind: Literal["cross_entropy", "focal", "dice", "cross_entropy_dice"] = "cross_entropy"
    """`cross_entropy`: of each pixel; `focal`: the same with less weight on pixels that are easy; `dice`: overlap of
    each class with its pixels in each picture, large or small; `cross_entropy_dice`: the sum of both, a picture at a
    time."""
    gamma: NonNegativeFloat = 2.0
    """Of `focal`: how strongly easy pixels lose weight; 0 = `cross_entropy`."""
    class_weights: Literal["frequency"] | dict[str, NonNegativeFloat] | tuple[NonNegativeFloat, ...] | None = None
    """Weight of each class: a list in the order of the classes, or `name: weight`, where others weigh 1. `frequency`:
    counted in at most 512 training samples before the first step; rare classes weigh more (median-frequency
    balancing). None = all weigh 1."""

    @field_validator("class_weights")
    @classmethod
    def _check_weights(cls, weights: Any) -> Any:
        values = weights.values() if isinstance(weights, dict) else weights
        if isinstance(values, str) or values is None:
            return weights
        if not any(values) or not all(map(math.isfinite, values)):
            raise ValueError("weights must be finite numbers, and one at least above 0")
        return weights

    def weights_of(self, classes: Sequence[str]) -> tuple[float, ...] | None:
        """The weight of each class; none = all weigh the same.

        Raises:
            UsageError: If a name or the number of weights does not fit the classes, or they are still to be counted.
        """
        given, key = self.class_weights, "loss.class_weights"
        if given is None:
            return None
        if given == "frequency":
            raise UsageError(f"{key}=frequency is counted when a run starts: call `vpd.training.run.train`, or set it.")
        if not isinstance(given, dict):
            if len(given) != len(classes):
                raise UsageError(
                    f"{key} has {len(given)} weights, but there are {len(classes)} classes: {', '.join(classes)}."
                )
            return tuple(given)
        if unknown := [name for name in given if name not in classes]:
            raise UsageError(f"{key} names {', '.join(unknown)}; the classes are {', '.join(classes)}.")
        return tuple(given.get(name, 1.0) for name in classes)

    def options(self, classes: Sequence[str]) -> dict[str, Any]:
        """Arguments of `vpd.tasks.losses.segmentation_loss`; raises as `weights_of`."""
        return {"kind": self.kind, "class_weights": self.weights_of(classes), "gamma": self.gamma}


PLAIN = LossSettings()
"""Cross-entropy in which all classes weigh the same."""
