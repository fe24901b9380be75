"""What the metrics of the tasks share: one row of sums for each sample, and metrics of a sum of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Accumulator(ABC):
    """Metrics of a data set, held as one tensor of sums and nothing else that changes.

    Everything a sample adds is its `row`. Rows of different samples, files and processes add up, and the metrics
    are a function of their sum alone: so any part of a data set, and any resampling of it, is measured by adding.
    Counts are exact integers, float64 sums are good to rounding.
    """

    COUNT: ClassVar[str | None] = None
    """Which of `values` says how many samples were counted, if any does."""

    totals: Tensor
    """Sum of the rows counted so far; int64 or float64, on the CPU, of the shape of one row."""

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count one sample. Raises as `row`."""
        self.totals += self.row(pred, target)

    def compute(self) -> dict[str, float | list[float]]:
        """The metrics of everything counted, by name; NaN where nothing was."""
        return {name: value.tolist() for name, value in self.values(self.totals).items()}

    @abstractmethod
    def row(self, pred: Tensor, target: Tensor) -> Tensor:
        """What one sample adds, of the type and shape of `totals`."""

    @abstractmethod
    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """The metrics of sums of rows.

        Args:
            totals: `(..., *shape of a row)`: one sum, or many at once.

        Returns:
            By name, `(...)` float64, or `(..., n)` where a metric has a value for each class.
        """
