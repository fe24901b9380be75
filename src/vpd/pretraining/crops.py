"""Endless streams of image batches to train an autoencoder on: scenes of the world, or photographs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError
from vpd.files.images import read_image
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene

logger = logging.getLogger(__name__)

PIXELS_PER_BATCH = 2 * 128 * 128
"""Small pictures come in bigger batches, so that every step costs about the same."""
KEPT_TIMES = 4
"""Photographs are kept in memory with a short side of at most this many crops."""
MOST_KEPT = 256
"""Photographs kept in memory."""


def to_batch(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stack `(H, W, 3)` pictures of one size to `(b, 3, H, W)` in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


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
    read = lru_cache(maxsize=MOST_KEPT)(lambda place: read_small(files[place], KEPT_TIMES * size_px))
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        count = max(1, PIXELS_PER_BATCH // size_px**2)
        places = [int(place) for place in rng.integers(len(files), size=count)]
        yield to_batch([random_crop(_first_readable(read, place, len(files)), size_px, rng) for place in places])
        step += 1


def read_small(path: Path, most_px: int) -> Image.Image | None:
    """A picture with a short side of at most `most_px`; none, and a warning, where it cannot be read."""
    try:
        image = read_image(path)
    except UsageError as error:
        logger.warning("left out: %s", error)
        return None
    scale = most_px / min(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def random_crop(image: Image.Image, size_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square part of a picture at a random scale and place, resized to `size_px`, perhaps mirrored."""
    short = min(image.size)
    side = int(rng.integers(min(size_px, short), short + 1))
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    pixels = _square(image, left, top, side, size_px)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def middle_crop(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """The largest square in the middle of a picture, resized to `size_px`."""
    side = min(image.size)
    return _square(image, (image.width - side) // 2, (image.height - side) // 2, side, size_px)


def _square(image: Image.Image, left: int, top: int, side: int, size_px: int) -> NDArray[np.uint8]:
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, box=box))


def _first_readable(read: Callable[[int], Image.Image | None], place: int, count: int) -> Image.Image:
    """The picture at a place, or the next that can be read."""
    for offset in range(count):
        image = read((place + offset) % count)
        if image is not None:
            return image
    raise UsageError(f"None of the {count} images can be read. Give a folder of photographs.")
