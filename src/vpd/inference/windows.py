"""Overlapping windows, blended by weights that fall to nothing at their borders, for pictures too big for one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vpd.files.images import to_tensor
from vpd.inference.resize import Forward


@dataclass(frozen=True)
class Windows:
    """How a picture is cut: squares, or less where the picture is smaller."""

    side_px: int
    """Side of a window."""
    overlap_px: int
    """Least overlap of neighbours; they are spread evenly, so most overlap by more."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of each window of such a picture."""
        return min(self.side_px, height), min(self.side_px, width)

    def starts(self, length: int) -> list[int]:
        """First pixels of the windows along a side of the picture: evenly spread, the last ends at the border."""
        if length <= self.side_px:
            return [0]
        number = math.ceil((length - self.overlap_px) / (self.side_px - self.overlap_px))
        return [round(place * (length - self.side_px) / (number - 1)) for place in range(number)]

    def weights(self, length: int) -> Tensor:
        """Share of each window in each pixel along a side, `(windows, side)`; those of a pixel add up to 1.

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


def blend(
    forward: Forward, picture: Image.Image, windows: Windows, *, mirrored: bool = False, rows: int = 256
) -> Iterator[Tensor]:
    """Outputs for a picture, blended from windows, as strips of finished rows from top to bottom.

    Args:
        forward: The network, whose outputs are float32.
        picture: RGB, at the size that the network shall see; only a window of it becomes a tensor at a time.
        windows: How it is cut.
        mirrored: Run the mirror image; the outputs are of that.
        rows: Most rows of a strip.

    Yields:
        `(1, c, rows, w)`, to be used before the next is asked for: memory of one row of windows is used again.
    """
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    window_h, window_w = windows.size(picture.height, picture.width)
    tops, lefts = windows.starts(picture.height), windows.starts(picture.width)
    shares_down, shares_across = windows.weights(picture.height), windows.weights(picture.width)
    total = torch.zeros(())
    for number, top in enumerate(tops):
        for left, across in zip(lefts, shares_across, strict=True):
            output = forward(to_tensor(picture.crop((left, top, left + window_w, top + window_h))))
            if not total.ndim:
                total = output.new_zeros((1, output.shape[1], window_h, picture.width))
            output *= (shares_down[number][:, None] * across).to(output.device)
            total[..., left : left + window_w] += output
            del output
        done = (tops[number + 1] if number + 1 < len(tops) else picture.height) - top
        for first in range(0, done, rows):
            yield total[..., first : min(first + rows, done), :]
        _move_up(total, done, rows)


def _move_up(total: Tensor, done: int, rows: int) -> None:
    """Begin with row `done` and end with zeros; by few rows at a time, as this is the largest thing in memory."""
    height = total.shape[-2]
    step = min(rows, done)
    for first in range(0, height - done, step):
        part = total[..., done + first : min(done + first + step, height), :]
        total[..., first : first + part.shape[-2], :] = part
    total[..., height - done :, :] = 0
