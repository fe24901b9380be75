"""Which pictures are run together, and which in windows or smaller, so that a prediction stays within a budget."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vpd.config import Resize
from vpd.errors import UsageError
from vpd.files.decoding import MAX_PIXELS
from vpd.files.images import to_bytes
from vpd.inference.cache import FrozenCaches
from vpd.inference.inputs import may_be_read_together, read_source, source_name, whole_number
from vpd.inference.memory import MARGIN, ONCE_BYTES, BudgetError, Memory, format_memory, network_bytes, parse_memory
from vpd.inference.overlapped import overlapped, threads_for
from vpd.inference.resize import Fitted, fit_picture, fitted_size, most_rows
from vpd.inference.windows import Cuts, PlainWindows, SmoothWindows

SMALLEST = 4
"""Sides of the smallest windows, and of pictures that are run smaller, in multiples of the model's coarsest stride."""
MOST_OUTPUT_BYTES = 2**28
"""Outputs of a picture that take more are not kept as a whole where no batches were asked for: it goes in strips."""
MOST_SIZE_PX = math.isqrt(MAX_PIXELS)
"""Largest short side to run at."""
_STRIPS = 5  # strips of outputs at once: two rows between which is interpolated, their mean, its widening, the sum
_SHARE_OF_STRIPS = 16  # they may take this part of the budget

SMALLER_WARNING = (
    "Pictures are run at a smaller size than the model's to stay within the memory; `note` of a prediction says at "
    "which. Windows would lose what 'on the left' means."
)
WINDOWS_WARNING = "Pictures are run in windows to stay within the memory; `note` of a prediction says of which size."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a call of `predict` asks of the network, and what it takes."""

    text: Callable[[list[int], FrozenCaches | None], Tensor | None]
    """Numbers of pictures, and where results are kept -> their prompts as the network takes them; none = its own."""
    text_shape: Callable[[int], tuple[int, ...] | None]
    """Their shape for so many pictures."""
    channels: int
    """Of the network's outputs."""
    kept_bytes: int
    """What a prediction takes, for each pixel of the picture."""
    smaller: Callable[[int], Resize] | None = None
    """The fit of a short side, for tasks that must see a picture as a whole: it is run smaller, never in windows."""
    words: Any = None
    """What the task needs to make predictions of the outputs."""


class Member(NamedTuple):
    """A picture among those that are predicted together."""

    number: int
    """Its place in the call."""
    image: Image.Image
    """RGB, upright."""
    fitted: Fitted | None = None
    """The same, where it was fitted already."""

    def pixels(self) -> int:
        """Of all that is kept of it, 3 bytes each."""
        return self.image.width * self.image.height if self.fitted is None else self.fitted.pixels

    def at(self, fit: Resize, scale: float) -> Image.Image:
        """At one of the fit's scales, RGB."""
        if self.fitted is not None and self.fitted.fit == fit:
            return self.fitted.at_scales[fit.scales.index(scale)]
        return fit_picture(self.image, fit, scale)


class Group(NamedTuple):
    """Pictures that are predicted together."""

    pictures: list[Member]
    """All of one fitted size."""
    fit: Resize
    """How they are fitted."""
    cuts: Cuts | None = None
    """How they are cut."""
    rows: int = 0
    """Rows of the strips in which a single picture goes from network to prediction; 0 = all at once."""
    note: str = ""
    """What was done for the sake of memory that changes the prediction; empty = nothing."""

    @property
    def num_variants(self) -> int:
        """Of the variants."""
        return len(self.fit.scales) * (1 + self.fit.flip)

    def variants(self) -> Iterator[tuple[Tensor | Image.Image, int, bool]]:
        """What goes through the network: at each scale as it is and, where `fit.flip`, mirrored.

        Yields:
            Pixels `(b, 3, h, w)`, uint8, or the one picture where it is run in strips; h; whether it is mirrored.
        """
        for scale in self.fit.scales:
            if self.rows:
                fitted = self.pictures[0].at(self.fit, scale)
                yield fitted, fitted.height, False
                if self.fit.flip:
                    yield fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT), fitted.height, True
                continue
            pixels = torch.cat([to_bytes(picture.at(self.fit, scale)) for picture in self.pictures])
            yield pixels, pixels.shape[-2], False
            if self.fit.flip:
                yield pixels.flip(-1), pixels.shape[-2], True


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Fits predictions into a budget; what they take is counted by `network_bytes` and added up here.

    The budget is for all that a call of `predict` takes over what the process holds when it begins: decoded pictures,
    the network's inputs, activations and outputs, and the predictions themselves.
    """

    model: Any
    asked: Asked
    memory_bytes: int | None
    """None = as much as it takes."""

    def groups(self, sources: Sequence[Any], fit: Resize, batch_size: int) -> Generator[Group, None, None]:
        """The pictures in their order; neighbours of equal fitted size together as far as memory allows.

        Raises:
            BudgetError: If there is no way to predict a picture within the budget.
            UsageError: If a picture cannot be read.
        """
        cuts, pictures = windows_of(fit), list[Member]()
        batch_size = batch_size if fit.scales == (1.0,) else 1
        with closing(self._members(sources, fit)) as members:
            for member in members:
                if pictures and not self._go_together([each.image for each in (*pictures, member)], fit, batch_size):
                    yield Group(pictures, fit, cuts)
                    pictures = []
                if pictures or self._fits(fit, [_size(member.image)], batch_size):
                    pictures.append(member)
                else:
                    yield self._alone(member, fit)
                if len(pictures) == batch_size:  # without waiting for the next to be read
                    yield Group(pictures, fit, cuts)
                    pictures = []
        if pictures:
            yield Group(pictures, fit, cuts)

    def _members(self, sources: Sequence[Any], fit: Resize) -> Generator[Member, None, None]:
        """The pictures, read and fitted by threads while those before them are run; within a budget one by one."""
        limits, number_of_all = threads_for(self.model), len(sources)
        is_ahead = number_of_all > 1 and self.memory_bytes is None
        is_ahead = is_ahead and not all(isinstance(source, Fitted) for source in sources)
        readers = limits.readers if may_be_read_together(sources) else 1

        def member(numbered: tuple[int, Any]) -> Member:
            number, source = numbered
            picture = read_source(source, name := source_name(source, number, number_of_all))
            check_fitted_size(picture, fit, name)
            if isinstance(source, Fitted):
                return Member(number, picture, source)
            return Member(number, picture, Fitted.of(picture, fit) if is_ahead else None)

        return overlapped(
            member,
            enumerate(sources),
            threads=min(readers, number_of_all - 1) if is_ahead else 0,
            device=self.model.device,  # tensors of a GPU may still be under way on the caller's stream
            cost=Member.pixels,
            most_cost=limits.most_read_px,
        )

    def _fits(self, fit: Resize, sizes: Sequence[tuple[int, int]], batch_size: int) -> bool:
        """Whether pictures can be run all at once."""
        if self.memory_bytes is not None:
            return self.whole_bytes(fit, sizes) <= self.memory_bytes
        height, width = fitted_size(fit, *sizes[0])
        is_small = 4 * self.asked.channels * height * width <= MOST_OUTPUT_BYTES
        return is_small or batch_size > 1 or fit.scales != (1.0,) or self.asked.smaller is not None

    def whole_bytes(self, fit: Resize, sizes: Sequence[tuple[int, int]]) -> int:
        """What pictures of these `(height, width)` take as they are run without a budget."""
        fitted = [fitted_size(fit, *sizes[0], scale) for scale in fit.scales]
        height, width = max(fitted)
        pixels, area, number = sum(h * w for h, w in sizes), height * width, len(sizes)
        runs = (1 + fit.flip) * len(fit.scales)
        inputs = number * area * (12 * (1 + fit.flip) + 3 * self.model.dtype.itemsize)
        logits = 4 * self.asked.channels * number * area
        strips = 4 * self.asked.channels * _STRIPS * max(min(h, most_rows(w)) * w for h, w in sizes)
        waiting = (runs - 1) * logits if fit.scales == (1.0,) else 4 * self.asked.channels * pixels
        window = _window(fit, height, width)
        rows = 0 if fit.window_px is None else logits + 8 * self.asked.channels * number * window[0] * width
        running = inputs + waiting + rows + self._network(number, window)
        finishing = waiting + 3 * logits + strips
        return self._sum(sizes, fit, (height, width), max(running, finishing))

    def stream_bytes(
        self, fit: Resize, size: tuple[int, int], windows: SmoothWindows | None = None, *, rows: int | None = None
    ) -> int:
        """What one picture of `(height, width)` takes if it goes through in strips, in windows or not."""
        fitted = [fitted_size(fit, *size, scale) for scale in fit.scales]
        mirrors, widest = 1 + fit.flip, max(fitted)
        rows = rows or self.rows(size[1])
        waiting = running = 0
        for height, width in fitted:
            window = _window(fit, height, width) if windows is None else windows.size(height, width)
            buffers = 4 * self.asked.channels * width * (window[0] + 2 * min(rows, window[0]))
            network = self._network(1, window) + window[0] * window[1] * (12 + 3 * self.model.dtype.itemsize)
            if windows is None:  # the whole picture as a tensor, and a row of windows copied when it is done
                buffers += height * width * (12 + 3 * self.model.dtype.itemsize)
                buffers += 4 * self.asked.channels * width * window[0] if fit.window_px else 0
            waiting += mirrors * (buffers + 3 * height * width)
            running = max(running, network)
        strips = 4 * self.asked.channels * _STRIPS * min(rows, size[0]) * size[1]
        return self._sum([size], fit, widest, waiting + max(running, strips))

    def rows(self, width: int) -> int:
        """Rows of a strip of outputs of such a width."""
        most = self._budget // (_SHARE_OF_STRIPS * _STRIPS * 4 * self.asked.channels)
        return min(most_rows(width), max(1, most // width))

    def _sum(self, sizes: Sequence[tuple[int, int]], fit: Resize, fitted: tuple[int, int], working: int) -> int:
        """All of it: pictures, what is made of them, and the larger of reading one and working on all."""
        sizes_px = [h * w for h, w in sizes]
        pixels, largest, area = (sum(sizes_px), max(sizes_px), fitted[0] * fitted[1])
        is_resized = any(size != fitted for size in sizes)
        fitting = 12 * largest + 12 * area if not fit.antialias and is_resized else 6 * largest
        return int(
            ONCE_BYTES + MARGIN * (3 * pixels + max(fitting + 18 * area, working + self.asked.kept_bytes * pixels))
        )

    def _network(self, number: int, window: tuple[int, int]) -> int:
        return network_bytes(self.model, (number, *window), self.asked.text_shape(number))

    @property
    def _budget(self) -> int:
        return 2**63 if self.memory_bytes is None else self.memory_bytes

    def _go_together(self, pictures: list[Image.Image], fit: Resize, batch_size: int) -> bool:
        sizes = [_size(picture) for picture in pictures]
        if len(pictures) > batch_size or fitted_size(fit, *sizes[-1]) != fitted_size(fit, *sizes[0]):
            return False
        return self._fits(fit, sizes, batch_size)

    def _alone(self, member: Member, fit: Resize) -> Group:
        """How a picture is run that is too big to be run as ever."""
        if self.asked.smaller is not None:
            return self._smaller(member, fit)
        pictures, size = [member], _size(member.image)
        rows = self.rows(size[1])
        for those in (most_rows(size[1]), rows):  # with as many as ever, probabilities are the same to the bit
            if self.memory_bytes is None or self.stream_bytes(fit, size, rows=those) <= self.memory_bytes:
                return Group(pictures, fit, windows_of(fit), those)
        multiple = self.model.output_multiple_px
        largest = min(max(fitted_size(fit, *size, max(fit.scales))), fit.window_px or 2**31)
        sides = range(SMALLEST * multiple, largest, multiple)
        cuts = [SmoothWindows(side, side // 4) for side in sides]
        fitting = bisect_right(cuts, self._budget, key=partial(self.stream_bytes, fit, size))
        if not fitting:
            needed = self.stream_bytes(fit, size, cuts[0] if cuts else None)
            raise self._error(size, fit, needed, f"in windows of {sides[0]} px" if cuts else "as a whole")
        warnings.warn(WINDOWS_WARNING, stacklevel=2)
        windows = cuts[fitting - 1]
        return Group(pictures, fit, windows, rows, windows.describe())

    def _smaller(self, member: Member, fit: Resize) -> Group:
        """How a picture is run that must be seen as a whole."""
        size, multiple = _size(member.image), self.model.output_multiple_px
        usual = min(fitted_size(fit, *size))
        fits = (
            [self.asked.smaller(side) for side in range(SMALLEST * multiple, usual, multiple)]
            if self.asked.smaller
            else []
        )
        fitting = bisect_right(fits, self._budget, key=lambda smaller: self.whole_bytes(smaller, [size]))
        if not fitting:
            smallest = fits[0] if fits else fit
            needed = self.whole_bytes(smallest, [size])
            raise self._error(size, smallest, needed, "at the smallest size that makes sense")
        warnings.warn(SMALLER_WARNING, stacklevel=2)
        chosen = fits[fitting - 1]
        note = f"at a short side of {min(fitted_size(chosen, *size))} px instead of {usual} px"
        return Group([member], chosen, windows_of(chosen), note=note)

    def _error(self, size: tuple[int, int], fit: Resize, needed: int, how: str) -> BudgetError:
        height, width = fitted_size(fit, *size)
        return BudgetError(
            f"A picture of {size[1]}x{size[0]} px, run at {width}x{height} px, needs {format_memory(needed)} even "
            f"{how}; {format_memory(self._budget)} are allowed. Allow more memory, or give a smaller size."
        )


def plan(
    model: Any, asked: Asked, sources: Sequence[Any], fit: Resize, batch_size: int, memory: Memory | None = None
) -> Generator[Group, None, None]:
    """Groups of pictures, within a budget if there is one.

    Args:
        model: Who predicts.
        asked: What it is asked.
        sources: Pictures, as for `predict`.
        fit: How they are fitted.
        batch_size: Most pictures that are run together.
        memory: The budget, as for `parse_memory`; none = batches as they come.

    Raises:
        UsageError: If a picture cannot be read, or memory or batch size are not as they must be.
    """
    batch_size = whole_number(batch_size, "batch_size")
    memory_bytes = None if memory is None else parse_memory(memory)
    return Planner(model=model, asked=asked, memory_bytes=memory_bytes).groups(sources, fit, batch_size)


def check_fitted_size(picture: Image.Image, fit: Resize, name: str) -> None:
    """Refuse a picture that is too large at the size at which it is run.

    Raises:
        UsageError: If it is.
    """
    height, width = fitted_size(fit, *_size(picture), max(fit.scales))
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"{name}: {picture.width}x{picture.height} px would be run at {width}x{height} px; the limit is "
            f"{MAX_PIXELS / 1e6:.0f} megapixels. Give a smaller size."
        )


def windows_of(fit: Resize) -> Cuts | None:
    """How a fit cuts a picture; none = not at all."""
    if fit.window_px is None or fit.stride_px is None:
        return None
    if fit.blend:
        return SmoothWindows(fit.window_px, fit.window_px - fit.stride_px)
    return PlainWindows(fit.window_px, fit.stride_px)


def _window(fit: Resize, height: int, width: int) -> tuple[int, int]:
    """What goes through the network at once."""
    return (height, width) if fit.window_px is None else (min(fit.window_px, height), min(fit.window_px, width))


def _size(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width
