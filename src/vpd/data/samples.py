"""The one sample type that every data set yields and every transform takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


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


Transform = Callable[[Sample, np.random.Generator], Sample]
"""Maps a sample to a sample, drawing every random number from the generator it is given."""


class SampleSet(Protocol):
    """What training and evaluation need of a data set; a `Sequence` of samples with its vocabulary."""

    classes: tuple[str, ...]
    """Class names of `labels`, or empty."""
    scenes: tuple[str, ...]
    """Scene names, or empty."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


PixelArray = NDArray[Any]
