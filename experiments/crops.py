"""Endless streams of image batches to train an autoencoder on: scenes of the world, or photographs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError
from vpd.pretraining.pictures import KEPT_TIMES, random_crop, read_small, to_batch
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene

logger = logging.getLogger(f"vpd.{__name__}")  # as loud as the package

PIXELS_PER_BATCH = 2 * 128 * 128
"""Small pictures come in bigger batches, so that every step costs about the same."""
MOST_KEPT = 256
"""Photographs kept in memory."""


def world_batches(sizes_px: Sequence[int], *, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Batches of fresh scenes without end; batch number k is the same whatever `start` is.

    Args:
        sizes_px: Sides of the square pictures; each batch draws one.
        seed: Of scenes and draws.
        start: Number of the first batch.
    """
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        size = int(rng.choice(list(sizes_px)))
        count = max(1, PIXELS_PER_BATCH // size**2)
        scenes = (
            sample_scene(seed, int(number), CROWDED_STYLE if number % 2 else DEFAULT_STYLE)
            for number in rng.integers(2**40, size=count)
        )
        yield to_batch([render(scene, size).image for scene in scenes])
        step += 1


def photo_batches(files: Sequence[Path], size_px: int, *, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Batches of random crops of image files without end, half of them mirrored.

    A file that cannot be read is named in the log once, and the next one is taken.

    Args:
        files: Image files.
        size_px: Side of the crops.
        seed: Of the draws.
        start: Number of the first batch; batch number k is the same whatever `start` is.

    Raises:
        UsageError: If none of the files can be read.
    """
    read = lru_cache(maxsize=MOST_KEPT)(lambda place: _readable(files[place], KEPT_TIMES * size_px))
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        count = max(1, PIXELS_PER_BATCH // size_px**2)
        places = [int(place) for place in rng.integers(len(files), size=count)]
        yield to_batch([random_crop(_first_readable(read, place, len(files)), size_px, rng) for place in places])
        step += 1


def _readable(path: Path, most_px: int) -> Image.Image | None:
    """A picture; none, and a warning, where it cannot be read."""
    try:
        return read_small(path, most_px)
    except UsageError as error:
        logger.warning("left out: %s", error)
        return None


def _first_readable(read: Callable[[int], Image.Image | None], place: int, count: int) -> Image.Image:
    """The picture at a place, or the next that can be read."""
    for offset in range(count):
        image = read((place + offset) % count)
        if image is not None:
            return image
    raise UsageError(f"None of the {count} images can be read. Give a folder of photographs.")
