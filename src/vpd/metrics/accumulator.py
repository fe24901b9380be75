"""What the metrics of the three tasks share: sums that add up over images, batches and processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Tensor

Self = TypeVar("Self", bound="Accumulator")


class Accumulator(ABC):
    """Metrics of a data set, held as one tensor of sums and nothing else that changes.

    Two halves of a data set, on two processes or in two files, are joined by adding their `totals`: `merge`,
    or an all-reduce with SUM over `totals` itself. Counts are exact, float64 sums are good to rounding.
    """

    totals: Tensor
    """Everything counted so far; int64 or float64, on the CPU."""

    def merge(self: Self, other: Self) -> Self:
        """Add what `other` has counted; returns `self`.

        Raises:
            ValueError: If the two count different things.
        """
        if type(other) is not type(self) or other.settings() != self.settings():
            raise ValueError(
                f"Cannot merge {type(other).__name__}({other.settings()}) into {type(self).__name__}"
                f"({self.settings()}): build both with the same arguments."
            )
        self.totals += other.totals
        return self

    def settings(self) -> dict[str, object]:
        """What was asked for at construction; everything but the sums."""
        return {name: value for name, value in vars(self).items() if name != "totals"}

    @abstractmethod
    def compute(self) -> dict[str, float | list[float]]:
        """The metrics by name; NaN where nothing was counted."""
