"""Transforms one after the other; each task makes those of its recipes of `geometric` and `colour`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vpd.data.geometric import Squash
from vpd.data.sample import Sample, Transform


@dataclass(frozen=True)
class Pipeline:
    """Transforms one after the other; the result depends on the sample and the generator alone."""

    steps: tuple[Transform, ...] = ()
    """Applied in this order."""
    pad_px: int | None = None
    """Side that collation pads samples to. The reference pads after scaling to [-1, 1], with zeros: mid-grey, which
    8-bit pixels cannot hold, so padding here would not be exact."""

    @property
    def repeats_images(self) -> bool:
        """Whether an image comes out the same whenever it comes again."""
        return all(step is draw_text or isinstance(step, Squash) for step in self.steps)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Apply all steps."""
        for step in self.steps:
            sample = step(sample, rng)
        return sample


def draw_text(sample: Sample, rng: np.random.Generator) -> Sample:
    """Keep one of the sample's expressions."""
    if not sample.texts:
        return sample
    return replace(sample, texts=(sample.texts[int(rng.integers(len(sample.texts)))],))
