"""Samples that tests make by hand."""

from __future__ import annotations

import numpy as np

from vpd.data.sample import Sample, SampleSet


class Samples(list[Sample], SampleSet):
    """A data set that is a list."""


def labelled(number: int, groups: tuple[str | None, ...] | None = None) -> Samples:
    """Random images of 64x64 with random labels of three classes."""
    generator = np.random.default_rng(0)
    return Samples(
        Sample(
            f"sample-{index}",
            generator.integers(0, 256, (64, 64, 3), np.uint8),
            labels=generator.integers(0, 3, (64, 64), np.uint8),
            group=groups[index] if groups else None,
        )
        for index in range(number)
    )
