"""Pictures to train small networks on: photographs of a folder, or scenes of the world."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.world import is_world, open_world
from vpd.errors import UsageError
from vpd.files.find_images import search_images
from vpd.files.images import read_image
from vpd.weights.shipped import WORLD

logger = logging.getLogger(__name__)

KEPT_TIMES = 4
"""Photographs are read with a short side of at most this many crops."""
MOST_KEPT = 128
"""Photographs that each process keeps in memory."""
HELD_OUT = 16
"""Most pictures kept out of training to measure on."""


class Photographs(SampleSet):
    """Image files, each as a sample with nothing but its picture.

    Args:
        files: The files.
        most_px: Larger pictures are scaled down to a short side of so many pixels.
    """

    def __init__(self, files: Sequence[Path], most_px: int) -> None:
        self._files, self._most_px = tuple(files), most_px

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path = self._files[index]
        return Sample(str(path), np.asarray(read_small(path, self._most_px)))

    def sample_keys(self) -> Iterable[str]:
        """The names of the files."""
        return (path.name for path in self._files)


@dataclass(frozen=True)
class RandomSquare:
    """A square part of a picture at a random scale and place, half the time mirrored; nothing else of a sample."""

    size_px: int
    """Side of the result, pixels."""
    scales: tuple[float, ...] = (1.0,)
    """Shares of the side that the part may fill, one as likely as another; its mirror images fill the rest. So pictures
    come at smaller scales in batches of one size."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw one."""
        side_px = round(self.size_px * float(rng.choice(self.scales)) / 8) * 8
        part = random_crop(Image.fromarray(sample.image), side_px, rng)
        rest = (0, self.size_px - side_px)
        return Sample(sample.name, np.pad(part, (rest, rest, (0, 0)), mode="symmetric"))


def find_pictures(images: str | Path, *, size_px: int, seed: int) -> tuple[SampleSet, SampleSet, RandomSquare]:
    """What to train on, what to measure on, and what training does to its pictures.

    Args:
        images: Folder of images, which are looked for below it too, or the name of the rendered world.
        size_px: Side of the crops, pixels, a multiple of 8.
        seed: Of the scenes.

    Raises:
        UsageError: If there are none, or the size does not fit.
    """
    check_size(size_px)
    if is_world(Path(images)):
        root = Path(images)
        train_set = open_world(root, "train", task="segment", size_px=size_px, seed=seed)
        held_out = open_world(root, "val", task="segment", count=HELD_OUT, size_px=size_px, seed=seed)
        return train_set, held_out, RandomSquare(size_px, scales=(0.5, 0.75, 1.0, 1.0))
    files, kept = find_photographs(images)
    most_px = KEPT_TIMES * size_px
    return Photographs(files, most_px), Photographs(kept, most_px), RandomSquare(size_px)


def check_size(size_px: int) -> None:
    """Make sure that crops have a size that networks of three halvings take.

    Raises:
        UsageError: If they have not.
    """
    if size_px < 16 or size_px % 8:
        raise UsageError(f"Crops of {size_px} px: give a multiple of 8 that is at least 16.")


def find_photographs(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Image files below a folder, to train and to measure on.

    Every tenth file, at most `HELD_OUT`, is kept to measure on; a few files serve for both.

    Raises:
        UsageError: If there are none.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder. Give a folder of images, or `{WORLD}` for rendered scenes.")
    files = [Path(path) for path in search_images([str(folder)])]
    kept = files[::10][:HELD_OUT]
    return [path for path in files if path not in kept] or files, kept


def middles(samples: SampleSet, size_px: int) -> Iterator[Tensor]:
    """The middle of each picture that can be read, `(1, 3, size_px, size_px)` in [-1, 1]."""
    for index in range(len(samples)):
        try:
            image = Image.fromarray(samples[index].image)
        except UsageError as error:
            logger.warning("left out: %s", error)
            continue
        yield to_batch([middle_crop(image, size_px)])


def to_batch(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stack `(H, W, 3)` pictures of one size to `(b, 3, H, W)` in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


@lru_cache(maxsize=MOST_KEPT)
def read_small(path: Path, most_px: int) -> Image.Image:
    """A picture with a short side of at most `most_px`.

    Raises:
        UsageError: If it cannot be read.
    """
    image = read_image(path)
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
