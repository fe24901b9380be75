"""How a picture is cut into overlapping windows, and what each of them counts for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cuts(ABC):
    """Squares, or less where the picture is smaller."""

    side_px: int
    """Side of a window."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of each window of such a picture."""
        return min(self.side_px, height), min(self.side_px, width)

    @abstractmethod
    def starts(self, length: int) -> list[int]:
        """First pixels of the windows along a side of the picture."""

    @abstractmethod
    def weights(self, length: int) -> Tensor | None:
        """Share of each window in each pixel along a side, `(windows, side)`; those of a pixel add up to 1.

        None = windows are averaged plainly, each pixel over as many as cover it.
        """


@dataclass(frozen=True)
class PlainWindows(Cuts):
    """A fixed distance apart, averaged where they overlap, as published; the last one ends at the border."""

    stride_px: int
    """Distance of two windows."""

    def starts(self, length: int) -> list[int]:
        """See `Cuts`."""
        if length <= self.side_px:
            return [0]
        last = length - self.side_px
        return [min(start, last) for start in range(0, last + self.stride_px, self.stride_px)]

    def weights(self, length: int) -> None:
        """See `Cuts`."""
        return


@dataclass(frozen=True)
class SmoothWindows(Cuts):
    """Blended by weights that fall to nothing at their borders, for pictures too big for one pass."""

    overlap_px: int
    """Least overlap of neighbours; they are spread evenly, so most overlap by more."""

    def starts(self, length: int) -> list[int]:
        """See `Cuts`: evenly spread, the last ends at the border."""
        if length <= self.side_px:
            return [0]
        number = math.ceil((length - self.overlap_px) / (self.side_px - self.overlap_px))
        return [round(place * (length - self.side_px) / (number - 1)) for place in range(number)]

    def weights(self, length: int) -> Tensor:
        """See `Cuts`.

        The squared sine of a Hann window, divided by the sum over all windows: no step anywhere, and where one window
        alone covers a pixel, it counts alone.
        """
        starts, side = self.starts(length), min(self.side_px, length)
        bell = torch.sin((torch.arange(side, dtype=torch.float64) + 0.5) * (math.pi / side)) ** 2
        total = torch.zeros(length, dtype=torch.float64)
        for start in starts:
            total[start : start + side] += bell
        return torch.stack([bell / total[start : start + side] for start in starts]).float()

    def describe(self) -> str:
        """In words."""
        return f"in windows of {self.side_px} px that overlap by {self.overlap_px} px or more"
