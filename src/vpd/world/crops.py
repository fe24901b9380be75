"""Endless streams of image batches to train an autoencoder on: the world's scenes, or a folder of photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError
from vpd.images import read_image
from vpd.world.render import render
from vpd.world.sampling import CROWDED_STYLE, DEFAULT_STYLE, sample_scene

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PIXELS_PER_BATCH = 4 * 128 * 128
"""Small pictures come in bigger batches, so that every step costs about the same."""


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


def image_files(folder: str | Path) -> list[Path]:
    """Image files of a folder and the folders in it, in the order of their names.

    Raises:
        UsageError: If there are none.
    """
    folder = Path(folder)
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not files:
        raise UsageError(
            f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}). Give a folder of photographs."
        )
    return files


def photo_batches(files: Sequence[Path], size_px: int, *, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Batches of random crops of image files without end, half of them mirrored.

    Args:
        files: Image files.
        size_px: Side of the crops.
        seed: Of the draws.
        start: Number of the first batch; batch number k is the same whatever `start` is.
    """
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        count = max(1, PIXELS_PER_BATCH // size_px**2)
        chosen = [files[int(i)] for i in rng.integers(len(files), size=count)]
        yield to_batch([random_crop(read_image(path), size_px, rng) for path in chosen])
        step += 1


def random_crop(image: Image.Image, size_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square part of a picture at a random scale and place, resized to `size_px`, perhaps mirrored."""
    short = min(image.size)
    side = int(rng.integers(min(size_px, short), short + 1))
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    crop = image.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
