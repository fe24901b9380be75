"""The one sample type that every data set yields and every transform takes and returns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """One image with whatever is known about it."""

    name: str
    """Unique within its data set and stable between runs."""
    image: NDArray[np.uint8]
    """`(H, W, 3)` RGB."""
    labels: NDArray[np.uint8] | None = None
    """`(H, W)` class of each pixel, 255 = ignored."""
    mask: NDArray[np.bool_] | None = None
    """`(H, W)`, true inside the referred object."""
    depth_m: NDArray[np.float32] | None = None
    """`(H, W)` metres, 0 = not measured."""
    texts: tuple[str, ...] = ()
    """Expressions that all mean `mask`; training draws one, evaluation has one a sample."""
    scene: str | None = None
    """Scene class, where known."""
    group: str | None = None
    """What samples that resemble each other share (frames of one room, expressions about one picture); intervals
    count a group, not a sample, as one draw. None = the sample stands alone."""
    exif_turn: int = 1
    """EXIF orientation that stands in the picture's file; 1 = none. Files of labels, masks and depth have none."""
    left_out: tuple[str, ...] = ()
    """Why objects of its annotation are not in it, a line for each."""


Exif = Literal["apply", "ignore"]
"""Whether a picture is turned as its EXIF orientation says."""

GENERIC_SCENE = "scene"
"""Makes the one depth prompt of data that name no scenes."""

READING = ("ignored", "label_map", "depth_scale", "max_depth_m")
"""Label values that are ignored, classes of values by other numbers, units of depth in a metre, farthest depth."""

Transform = Callable[[Sample, np.random.Generator], Sample]
"""Maps a sample to a sample, drawing every random number from the generator it is given."""


@dataclass(frozen=True)
class CountedDepth:
    """Which pixels of true depth a benchmark counts."""

    min_depth_m: float = 1e-3
    """Smaller truth does not count, metres."""
    max_depth_m: float | None = None
    """Larger truth does not count, metres; none = the model's range."""
    crop: Literal["nyu", "garg", "eigen"] | None = None
    """Part of the picture that counts; `vpd.metrics.depth.crop_window` says which."""


def tell_left_out(sample: Sample) -> None:
    """Log once which objects of a sample are left out."""
    if sample.left_out:
        _warn(f"{sample.name}: left out: {told_few(sample.left_out)}")


@cache
def _warn(line: str) -> None:
    logger.warning("%s", line)


def told_few(lines: Sequence[str]) -> str:
    """The first of some lines, and how many more there are."""
    return "; ".join(lines[:_SHOWN]) + (f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else "")


class SampleSet(Protocol):
    """What training and evaluation need of a data set: samples by number, and what is known about all of them.

    Data sets inherit from this and set what differs.
    """

    classes: tuple[str, ...] = ()
    """Class names of `labels`, or empty."""
    scenes: tuple[str, ...] = ()
    """Scene names, or empty."""
    parts: tuple[str, ...] = ()
    """Which of `labels`, `mask` and `depth` the samples have, where data sets of one layout differ in it."""
    counted: CountedDepth = CountedDepth()
    """Which true depth counts in evaluation."""
    label_values: tuple[int, ...] | None = None
    """The number of each class in the benchmark's own label files, where it is not 0, 1, 2, ..."""
    unpaired: Sequence[str] = ()
    """Files that lack their partner, and annotations that are left out, one line for each."""
    notes: Sequence[str] = ()
    """What a report on the data should say of it, though nothing is wrong."""
    exif: Exif | None = None
    """What is done about EXIF orientations; none = nobody said, so they are applied."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def sample_keys(self) -> Iterable[str]:
        """What tells the samples apart, in their order, as far as it is known without reading them; else nothing."""
        return ()

    def complaint(self, index: int) -> str | None:
        """What is wrong with a sample though it can be read, if that is known."""
        return None

    def files(self) -> Iterable[Path]:
        """Files that the samples are read from, in the order of the samples, as far as they are known unread."""
        return ()

    def reading(self) -> Mapping[str, Any]:
        """What a user decides about the values of label and depth files: some of `READING`, as in JSON.

        `is_stated` beside them tells whether somebody said what is ignored; `ignored_words`, what it is, where it
        is no value of a file.
        """
        return {}
