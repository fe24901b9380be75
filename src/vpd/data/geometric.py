"""Transforms that move pixels: all parts of a sample move together, and what its words say of left and right."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from vpd.data.sample import Sample
from vpd.files.images import resize_short
from vpd.tensors import IGNORE_LABEL

_CROP_TRIES = 10

_WITH_SIDE = re.compile(r"[a-z]*(?:left|right)[a-z]*", re.IGNORECASE)
_SIDE = re.compile(r"left|right", re.IGNORECASE)
_NO_SIDE = re.compile(
    r"bright|upright|alright|outright|copyright|forthright|downright|birthright|righteous|rightful|leftover"
    r"|\b(?:fright|wright|playwright|aright|cleft)",
    re.IGNORECASE,
)
_MAYBE_NO_SIDE = re.compile(
    r"\b(?:left|right)\s+(?:above|against|at|behind|below|beneath|beside|by|in front|near|next|on|over|under)\b",
    re.IGNORECASE,
)
_OTHER = {"left": "right", "right": "left"}


def resize_image(image: NDArray[np.uint8], size: tuple[int, int], *, antialias: bool = True) -> NDArray[np.uint8]:
    """Bilinear resize of `(H, W, 3)` to `size` (h, w).

    `antialias` averages all pixels when shrinking, as Pillow does; without it the four nearest, as OpenCV does.
    """
    height, width = size
    if antialias:
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size, mode="bilinear")[0].permute(1, 2, 0).numpy()


def resize_nearest(values: NDArray[Any], size: tuple[int, int], *, centred: bool = True) -> NDArray[Any]:
    """Nearest value for each pixel of `size` (h, w); `centred` = nearest centres, else OpenCV's rounding down."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5 * centred) * (old / new)).astype(np.int64), old - 1)
        for new, old in zip(size, values.shape[:2], strict=True)
    )
    return values[rows[:, None], columns]


def resize_sample(sample: Sample, size: tuple[int, int], *, like_opencv: bool = False) -> Sample:
    """Bring image, labels, mask and depth to `size` (h, w); depth values stay metres."""
    return _map_parts(
        sample,
        lambda image: resize_image(image, size, antialias=not like_opencv),
        lambda values: resize_nearest(values, size, centred=not like_opencv),
    )


@dataclass(frozen=True)
class Squash:
    """Resize to a square whatever the aspect ratio, as the reference does for referring."""

    size_px: int
    """Side, pixels."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize; draws nothing."""
        return resize_sample(sample, (self.size_px, self.size_px))


@dataclass(frozen=True)
class RandomResize:
    """Resize by a random ratio of a base size, keeping the aspect ratio."""

    short_px: int
    """Short side at ratio 1, pixels."""
    long_px: int
    """The long side is not to pass this at ratio 1, pixels."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest ratio."""
    like_opencv: bool = False
    """Interpolate as OpenCV does: no anti-aliasing, labels rounded down."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize by one draw."""
        ratio = rng.uniform(*self.ratio)
        height, width = sample.image.shape[:2]
        size = resize_short((height, width), int(self.short_px * ratio), int(self.long_px * ratio))
        return resize_sample(sample, size, like_opencv=self.like_opencv)


@dataclass(frozen=True)
class RandomCrop:
    """Cut a random square; a side that is shorter stays as it is (collation pads it)."""

    size_px: int
    """Side, pixels."""
    max_class_share: float = 1.0
    """Draw again, up to 10 times, while one class fills this share of the labelled pixels or more."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Cut by one or more draws."""
        window = self._draw(sample, rng)
        if sample.labels is not None and self.max_class_share < 1:
            for _ in range(_CROP_TRIES):
                if _largest_share(sample.labels[window]) < self.max_class_share:
                    break
                window = self._draw(sample, rng)
        return _map_parts(sample, lambda image: image[window], lambda values: values[window])

    def _draw(self, sample: Sample, rng: np.random.Generator) -> tuple[slice, slice]:
        height, width = sample.image.shape[:2]
        top = int(rng.integers(max(height - self.size_px, 0) + 1))
        left = int(rng.integers(max(width - self.size_px, 0) + 1))
        return slice(top, top + self.size_px), slice(left, left + self.size_px)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right, also in the expressions; a sample whose words cannot be mirrored stays."""

    probability: float = 0.5
    """Share of samples that are mirrored."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Mirror by one draw."""
        return flip(sample) if rng.random() < self.probability else sample


def flip(sample: Sample) -> Sample:
    """The mirrored sample; the same sample if one of its expressions cannot be mirrored with certainty."""
    texts = tuple(text for text in map(mirror_text, sample.texts) if text is not None)
    if len(texts) < len(sample.texts):
        return sample
    mirrored = _map_parts(sample, lambda image: image[:, ::-1], lambda values: values[:, ::-1])
    return replace(mirrored, texts=texts)


def mirror_text(text: str) -> str | None:
    """The expression for the mirrored picture: left and right change places, also inside `leftmost`, `topright`.

    Words such as `bright`, `upright`, `leftover` stay. Applying it twice gives the text back.

    Returns:
        The new text; or none where a side may not be meant (`the cup right behind the vase`), so that the
        picture had better not be mirrored.
    """
    if _MAYBE_NO_SIDE.search(text):
        return None
    mirrored = _WITH_SIDE.sub(_mirror_word, text)
    # "upleft" would become "upright", which is no side
    return mirrored if _WITH_SIDE.sub(_mirror_word, mirrored) == text else None


def _mirror_word(match: re.Match[str]) -> str:
    word = match.group()
    return word if _NO_SIDE.search(word) else _SIDE.sub(_other_side, word)


def _other_side(match: re.Match[str]) -> str:
    side = match.group()
    other = _OTHER[side.lower()]
    return other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other


def _largest_share(labels: NDArray[np.uint8]) -> float:
    """Share of the largest class among labelled pixels; 1 if there are fewer than two classes."""
    counts = np.delete(np.bincount(labels.ravel(), minlength=256), IGNORE_LABEL)
    return float(counts.max() / counts.sum()) if np.count_nonzero(counts) > 1 else 1.0


def _map_parts(
    sample: Sample,
    change_image: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    change_values: Callable[[NDArray[Any]], NDArray[Any]],
) -> Sample:
    return replace(
        sample,
        image=change_image(sample.image),
        labels=None if sample.labels is None else change_values(sample.labels),
        mask=None if sample.mask is None else change_values(sample.mask),
        depth_m=None if sample.depth_m is None else change_values(sample.depth_m),
    )
