"""Outputs for the frames of a clip, averaged over time along what moves: less flicker, and no smear."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vpd.errors import UsageError
from vpd.inference.inputs import whole_number
from vpd.inference.memory import BudgetError

MOST_FRAMES = 100
"""Largest number of frames to average over."""
_SAME_LEVELS = 16.0
"""Difference of colour, of 255, at which a pixel is taken for another thing: its past counts 1/e of what it would."""
_SMALLEST_PX = 16  # side of the smallest picture in which motion is looked for


class _Past(NamedTuple):
    """What is kept of one variant (scale, mirror image) of the frame before."""

    output: Tensor
    """`(c, h, w)`, averaged; logarithms where these are averaged."""
    picture: NDArray[np.uint8]
    """`(h, w, 3)` RGB, as the network saw it."""


class Smoother:
    """Averages what a network makes of the frames of one clip, which are predicted in their order.

    A pixel's output is mixed with what stood, one frame ago, where optical flow says that it came from. Where the
    colours there differ, as at what was hidden before or where flow fails, the past counts less, and after a cut not at
    all. Handed to `predict` with each frame; it keeps one output of the network for each variant of a frame.

    Args:
        frames: About how many frames an average is made of; 1 = this one alone.

    Raises:
        UsageError: If that is no such number, or OpenCV, which finds the motion, is not installed.
    """

    def __init__(self, frames: int) -> None:
        self.frames = whole_number(frames, "smooth", most=MOST_FRAMES, meaning=" of frames to average over")
        self._keep = 1 - 1 / self.frames
        self._past: dict[int, _Past] = {}
        self._begun: dict[int, _Past] = {}
        if self.frames > 1:
            _opencv()

    def begin(self, *, in_strips: bool) -> None:
        """Frames are being predicted; those that were begun and not kept are forgotten, and may come again.

        Args:
            in_strips: Whether their outputs are not kept as a whole.

        Raises:
            BudgetError: If they are not, as what is not kept cannot be averaged.
        """
        self._begun = {}
        if in_strips and self.frames > 1:
            raise BudgetError(
                "Outputs for frames of this size are too large to be kept, and cannot be smoothed. Give a smaller "
                "size, or no smoothing."
            )

    def smoothed(self, variant: int, outputs: Tensor, pixels: Tensor, *, use_logs: bool) -> Tensor:
        """Outputs of consecutive frames, averaged with those before them.

        Args:
            variant: Number of the variant among those of a frame.
            outputs: `(b, c, h, w)`, float32.
            pixels: What they were made of, `(b, 3, h, w)`, uint8, on the CPU.
            use_logs: Whether logarithms are averaged; outputs are above 0 then.
        """
        if self.frames == 1:
            return outputs
        averages = []
        for output, frame in zip(outputs.log() if use_logs else outputs, pixels, strict=True):
            picture = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
            past = self._begun.get(variant, self._past.get(variant))
            average = self._mixed(past, output, picture)
            self._begun[variant] = _Past(average, picture)
            averages.append(average)
        stacked = torch.stack(averages)
        return stacked.exp() if use_logs else stacked

    def keep(self) -> None:
        """These frames were predicted; what was averaged for them is the past of the next."""
        self._past, self._begun = {**self._past, **self._begun}, {}

    def state(self) -> dict[str, Tensor]:
        """All that is kept, to be stored."""
        stored = {}
        for variant, past in self._past.items():
            stored[f"output-{variant}"] = past.output.cpu().contiguous()
            stored[f"picture-{variant}"] = torch.from_numpy(past.picture)
        return stored

    def load_state(self, stored: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what was stored."""
        numbers = [int(name.removeprefix("output-")) for name in stored if name.startswith("output-")]
        self._begun = {}
        self._past = {
            number: _Past(stored[f"output-{number}"].to(device), stored[f"picture-{number}"].numpy())
            for number in numbers
        }

    def _mixed(self, past: _Past | None, output: Tensor, picture: NDArray[np.uint8]) -> Tensor:
        """`(c, h, w)`: the output and what came before, pixel by pixel."""
        if past is None or past.output.shape != output.shape or min(picture.shape[:2]) < _SMALLEST_PX:
            return output
        places = _places_before(picture, past.picture)
        before = _sample(past.output, places.to(output.device))
        colours = torch.from_numpy(past.picture).permute(2, 0, 1).float()
        differences = (_sample(colours, places) - torch.from_numpy(picture).permute(2, 0, 1)).abs().mean(0)
        local = F.avg_pool2d(differences[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
        is_inside = (places.abs() <= 1).all(-1)
        weight = (self._keep * (-((local / _SAME_LEVELS) ** 2)).exp() * is_inside).to(output.device)
        mixed = output + weight * (before - output)
        return torch.where(mixed.isfinite(), mixed, output)


def _places_before(now: NDArray[np.uint8], before: NDArray[np.uint8]) -> Tensor:
    """Where each pixel of a picture was in the one before: `(h, w, 2)`, column and row in [-1, 1] inside it."""
    cv2 = _opencv()
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.ascontiguousarray(each), cv2.COLOR_RGB2GRAY) for each in (now, before)]
    flow = torch.from_numpy(finder.calc(*grey, None))  # (h, w, 2): columns, rows
    height, width = now.shape[:2]
    columns = (torch.arange(width) + flow[..., 0]) * (2 / (width - 1)) - 1
    rows = (torch.arange(height)[:, None] + flow[..., 1]) * (2 / (height - 1)) - 1
    return torch.stack([columns, rows], dim=-1)


def _sample(values: Tensor, places: Tensor) -> Tensor:
    """Values `(c, h, w)` at places `(h, w, 2)`."""
    return F.grid_sample(values[None], places[None].to(values.dtype), padding_mode="border", align_corners=True)[0]


def _opencv() -> Any:
    try:
        return import_module("cv2")
    except ImportError as error:
        raise UsageError(f'Smoothing finds motion by OpenCV ({error}): pip install "vpd-perception[video]"') from None
