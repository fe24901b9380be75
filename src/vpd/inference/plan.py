"""Which pictures are run together, and which in windows or smaller, so that a prediction stays within a budget."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image

from vpd.config import Fit
from vpd.errors import UsageError
from vpd.files.images import read_image
from vpd.inference.memory import (
    MARGIN,
    ONCE_BYTES,
    BudgetError,
    Memory,
    format_memory,
    network_bytes,
    parse_memory,
)
from vpd.inference.resize import Group, fit_image, fitted_size, most_rows
from vpd.inference.windows import Windows

SMALLEST = 4
"""Sides of the smallest windows, and of pictures that are run smaller, in multiples of the model's coarsest stride."""
_STRIPS = 5  # strips of outputs at once: two rows between which is interpolated, their mean, its widening, the sum
_SHARE_OF_STRIPS = 16  # they may take this part of the budget

SMALLER_WARNING = (
    "Pictures are run at a smaller size than the model's to stay within the memory; `note` of a prediction says at "
    "which. Windows would lose what 'on the left' means."
)
WINDOWS_WARNING = "Pictures are run in windows to stay within the memory; `note` of a prediction says of which size."


class Step(NamedTuple):
    """Pictures that are predicted together."""

    group: Group
    """Number, picture and fitted pixels of each; no pixels (`(0,)`) of one that is run as a stream."""
    fit: Fit
    """How they are fitted."""
    rows: int = 0
    """Rows of the strips in which one picture goes from network to prediction; 0 = all at once."""
    windows: Windows | None = None
    """How it is cut; none = as `fit` says."""
    note: str = ""
    """What was done for the sake of memory that changes the prediction; empty = nothing."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Fits predictions into a budget; what they take is counted by `network_bytes` and added up here.

    The budget is for all that a call of `predict` takes over what the process holds when it begins: decoded pictures,
    the network's inputs, activations and outputs, and the predictions themselves.
    """

    model: Any
    memory_bytes: int
    channels: int
    """Of the network's outputs."""
    kept_bytes: int
    """What a prediction takes, for each pixel of the picture."""
    text: Callable[[int], tuple[int, ...] | None]
    """Shape of the text embeddings for so many pictures."""
    smaller: Callable[[int], Fit] | None = None
    """The fit of a short side, for models that are run smaller instead of in windows."""

    def steps(self, sources: Sequence[Any], fit: Fit, batch_size: int) -> Iterator[Step]:
        """The pictures in their order; neighbours of equal fitted size together as far as memory allows.

        Raises:
            BudgetError: If there is no way to predict a picture within the budget.
            UsageError: If a picture cannot be read.
        """
        group: list[tuple[int, Image.Image]] = []
        for index, source in enumerate(sources):
            picture = read_image(source)
            if group and not self._go_together([*(member for _, member in group), picture], fit, batch_size):
                yield _together(group, fit)
                group = []
            if group or self.whole_bytes(fit, [_size(picture)]) <= self.memory_bytes:
                group.append((index, picture))
            else:
                yield self._alone(index, picture, fit)
        if group:
            yield _together(group, fit)

    def whole_bytes(self, fit: Fit, sizes: Sequence[tuple[int, int]]) -> int:
        """What pictures of these `(height, width)` take as they are run without a budget."""
        fitted = [fitted_size(fit, *sizes[0], scale) for scale in fit.scales]
        height, width = max(fitted)
        pixels, area, number = sum(h * w for h, w in sizes), height * width, len(sizes)
        runs = (1 + fit.flip) * len(fit.scales)
        inputs = number * area * (12 * (1 + fit.flip) + 3 * self.model.dtype.itemsize)
        logits = 4 * self.channels * number * area
        strips = 4 * self.channels * _STRIPS * max(min(h, most_rows(w)) * w for h, w in sizes)
        waiting = (runs - 1) * logits if fit.scales == (1.0,) else 4 * self.channels * pixels
        window = _window(fit, height, width)
        rows = 0 if fit.window_px is None else logits + 8 * self.channels * number * window[0] * width
        running = inputs + waiting + rows + self._network(number, window)
        finishing = waiting + 3 * logits + strips
        return self._sum(sizes, fit, (height, width), max(running, finishing))

    def stream_bytes(
        self, fit: Fit, size: tuple[int, int], windows: Windows | None = None, *, rows: int | None = None
    ) -> int:
        """What one picture of `(height, width)` takes if it goes through in strips, in windows or not."""
        fitted = [fitted_size(fit, *size, scale) for scale in fit.scales]
        mirrors, widest = 1 + fit.flip, max(fitted)
        rows = rows or self.rows(size[1])
        waiting = running = 0
        for height, width in fitted:
            window = _window(fit, height, width) if windows is None else windows.size(height, width)
            buffers = 4 * self.channels * width * (window[0] + 2 * min(rows, window[0]))
            network = self._network(1, window) + window[0] * window[1] * (12 + 3 * self.model.dtype.itemsize)
            if windows is None:  # the whole picture as a tensor, and a row of windows copied when it is done
                buffers += height * width * (12 + 3 * self.model.dtype.itemsize)
                buffers += 4 * self.channels * width * window[0] if fit.window_px else 0
            waiting += mirrors * (buffers + 3 * height * width)
            running = max(running, network)
        strips = 4 * self.channels * _STRIPS * min(rows, size[0]) * size[1]
        return self._sum([size], fit, widest, waiting + max(running, strips))

    def rows(self, width: int) -> int:
        """Rows of a strip of outputs of such a width."""
        most = self.memory_bytes // (_SHARE_OF_STRIPS * _STRIPS * 4 * self.channels)
        return min(most_rows(width), max(1, most // width))

    def _sum(self, sizes: Sequence[tuple[int, int]], fit: Fit, fitted: tuple[int, int], working: int) -> int:
        """All of it: pictures, what is made of them, and the larger of reading one and working on all."""
        sizes_px = [h * w for h, w in sizes]
        pixels, largest, area = (sum(sizes_px), max(sizes_px), fitted[0] * fitted[1])
        is_resized = any(size != fitted for size in sizes)
        fitting = 12 * largest + 12 * area if not fit.antialias and is_resized else 6 * largest
        return int(ONCE_BYTES + MARGIN * (3 * pixels + max(fitting + 18 * area, working + self.kept_bytes * pixels)))

    def _network(self, number: int, window: tuple[int, int]) -> int:
        return network_bytes(self.model, (number, *window), self.text(number))

    def _go_together(self, pictures: list[Image.Image], fit: Fit, batch_size: int) -> bool:
        sizes = [_size(picture) for picture in pictures]
        if len(pictures) > batch_size or fitted_size(fit, *sizes[-1]) != fitted_size(fit, *sizes[0]):
            return False
        return self.whole_bytes(fit, sizes) <= self.memory_bytes

    def _alone(self, index: int, picture: Image.Image, fit: Fit) -> Step:
        """How a picture is run that is too big to be run as ever."""
        if self.smaller is not None:
            return self._smaller(index, picture, fit)
        group, size = [(index, picture, torch.empty(0))], _size(picture)
        rows = self.rows(picture.width)
        for those in (most_rows(picture.width), rows):  # with as many as ever, probabilities are the same to the bit
            if self.stream_bytes(fit, size, rows=those) <= self.memory_bytes:
                return Step(group, fit, those)
        multiple = self.model.output_multiple_px
        largest = min(max(fitted_size(fit, *size, max(fit.scales))), fit.window_px or 2**31)
        sides = range(SMALLEST * multiple, largest, multiple)
        cuts = [Windows(side, side // 4) for side in sides]
        fitting = bisect_right(cuts, self.memory_bytes, key=partial(self.stream_bytes, fit, size))
        if not fitting:
            needed = self.stream_bytes(fit, size, cuts[0] if cuts else None)
            raise self._error(size, fit, needed, f"in windows of {sides[0]} px" if cuts else "as a whole")
        warnings.warn(WINDOWS_WARNING, stacklevel=2)
        windows = cuts[fitting - 1]
        return Step(group, fit, rows, windows, windows.describe())

    def _smaller(self, index: int, picture: Image.Image, fit: Fit) -> Step:
        """How a picture is run that must be seen as a whole."""
        size, multiple = _size(picture), self.model.output_multiple_px
        usual = min(fitted_size(fit, *size))
        fits = [self.smaller(side) for side in range(SMALLEST * multiple, usual, multiple)] if self.smaller else []
        fitting = bisect_right(fits, self.memory_bytes, key=lambda smaller: self.whole_bytes(smaller, [size]))
        if not fitting:
            smallest = fits[0] if fits else fit
            needed = self.whole_bytes(smallest, [size])
            raise self._error(size, smallest, needed, "at the smallest size that makes sense")
        warnings.warn(SMALLER_WARNING, stacklevel=2)
        chosen = fits[fitting - 1]
        note = f"at a short side of {min(fitted_size(chosen, *size))} px instead of {usual} px"
        return Step([(index, picture, fit_image(picture, chosen))], chosen, note=note)

    def _error(self, size: tuple[int, int], fit: Fit, needed: int, how: str) -> BudgetError:
        height, width = fitted_size(fit, *size)
        return BudgetError(
            f"A picture of {size[1]}x{size[0]} px, run at {width}x{height} px, needs {format_memory(needed)} even "
            f"{how}; {format_memory(self.memory_bytes)} are allowed. Allow more memory, or give a smaller size."
        )


def plan(
    model: Any, memory: Memory | None, sources: Sequence[Any], fit: Fit, batch_size: int, **facts: Any
) -> Iterator[Step]:
    """Steps for pictures, within a budget if there is one.

    Args:
        model: Who predicts.
        memory: The budget, as for `parse_memory`; none = batches as they come.
        sources: Pictures, as for `predict`.
        fit: How they are fitted.
        batch_size: Most pictures that are run together.
        facts: The rest of what a `Planner` has to know.

    Raises:
        UsageError: If a picture cannot be read, or memory or batch size are not as they must be.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give 1 or more.")
    if memory is None:
        return (Step(group, fit) for group in read_groups(list(sources), fit, batch_size))
    planner = Planner(model=model, memory_bytes=parse_memory(memory), **facts)
    return planner.steps(sources, fit, batch_size)


def read_groups(sources: Sequence[Any], fit: Fit, batch_size: int) -> Iterator[Group]:
    """Groups of at most `batch_size` neighbours that have the same fitted size: (index, picture, pixels)."""
    group: Group = []
    for index, source in enumerate(sources):
        picture = read_image(source)
        pixels = fit_image(picture, fit)
        if group and (len(group) == batch_size or pixels.shape != group[0][2].shape):
            yield group
            group = []
        group.append((index, picture, pixels))
    if group:
        yield group


def _together(group: list[tuple[int, Image.Image]], fit: Fit) -> Step:
    return Step([(index, picture, fit_image(picture, fit)) for index, picture in group], fit)


def _window(fit: Fit, height: int, width: int) -> tuple[int, int]:
    """What goes through the network at once."""
    return (height, width) if fit.window_px is None else (min(fit.window_px, height), min(fit.window_px, width))


def _size(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width
