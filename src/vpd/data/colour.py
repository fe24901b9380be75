"""Transforms that change colours and leave pixels in their places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.data.sample import Sample

_LEVELS = np.arange(256, dtype=np.float32)


def map_levels(image: NDArray[np.uint8], levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Replace each of the 256 levels; results are clipped and rounded down, as the reference's libraries do."""
    return np.clip(levels, 0, 255).astype(np.uint8)[image]


def shift_hsv(
    image: NDArray[np.uint8],
    *,
    hue_deg: float = 0.0,
    saturation_gain: float = 1.0,
    saturation_shift: float = 0.0,
    value_shift: float = 0.0,
) -> NDArray[np.uint8]:
    """Change hue (turned, degrees), saturation and value (0..255, clipped)."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(hue_deg / 360 * 256) % 256)  # wraps like an angle
    hsv[..., 1] = map_levels(hsv[..., 1], _LEVELS * np.float32(saturation_gain) + np.float32(saturation_shift))
    hsv[..., 2] = map_levels(hsv[..., 2], _LEVELS + np.float32(value_shift))
    return np.array(Image.fromarray(hsv, mode="HSV").convert("RGB"))


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast (first or last), saturation and hue, each in half of the samples; mmseg's values."""

    brightness: float = 32
    """Largest shift, levels."""
    contrast: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest gain."""
    saturation: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest gain."""
    hue_deg: int = 36
    """Largest turn, degrees (18 on OpenCV's half-circle scale)."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the image only."""
        image = sample.image
        if rng.random() < 0.5:
            shift = np.float32(rng.uniform(-self.brightness, self.brightness))
            image = map_levels(image, _LEVELS + shift)
        is_contrast_first = rng.random() < 0.5
        contrast = np.float32(rng.uniform(*self.contrast) if rng.random() < 0.5 else 1)
        if is_contrast_first:
            image = map_levels(image, _LEVELS * contrast)
        gain = rng.uniform(*self.saturation) if rng.random() < 0.5 else 1.0
        hue_deg = 2 * rng.integers(-self.hue_deg // 2, self.hue_deg // 2) if rng.random() < 0.5 else 0
        if gain != 1 or hue_deg:
            image = shift_hsv(image, hue_deg=float(hue_deg), saturation_gain=gain)
        if not is_contrast_first:
            image = map_levels(image, _LEVELS * contrast)
        return replace(sample, image=image)


@dataclass(frozen=True)
class BrightnessContrast:
    """Gain and shift of all levels, in half of the samples."""

    brightness: float = 0.2
    """Largest shift, share of 255."""
    contrast: float = 0.2
    """Largest change of the gain."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the image only."""
        if rng.random() >= 0.5:
            return sample
        gain = np.float32(1 + rng.uniform(-self.contrast, self.contrast))
        shift = np.float32(255 * rng.uniform(-self.brightness, self.brightness))
        return replace(sample, image=map_levels(sample.image, _LEVELS * gain + shift))


@dataclass(frozen=True)
class Gamma:
    """A power of all levels, in half of the samples."""

    gamma: tuple[float, float] = (0.8, 1.2)
    """Smallest and largest exponent."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the image only."""
        if rng.random() >= 0.5:
            return sample
        exponent = np.float32(rng.uniform(*self.gamma))
        return replace(sample, image=map_levels(sample.image, 255 * (_LEVELS / 255) ** exponent))


@dataclass(frozen=True)
class HueSaturationValue:
    """Shifts of hue, saturation and value, in half of the samples."""

    hue_deg: float = 40
    """Largest turn, degrees (20 on OpenCV's half-circle scale)."""
    saturation: float = 30
    """Largest shift, levels."""
    value: float = 20
    """Largest shift, levels."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the image only."""
        if rng.random() >= 0.5:
            return sample
        hue_deg, saturation, value = (rng.uniform(-most, most) for most in (self.hue_deg, self.saturation, self.value))
        image = shift_hsv(sample.image, hue_deg=hue_deg, saturation_shift=saturation, value_shift=value)
        return replace(sample, image=image)


@dataclass(frozen=True)
class CutDepth:
    """Replace a vertical strip of the image by its depth (vertical CutDepth, https://arxiv.org/abs/2201.07436)."""

    scale: Literal["metric", "wrap"] = "metric"
    """`metric`: depth from 0 to `max_depth_m` becomes 0..255; `wrap`: millimetres written into 8 bits, where they
    wrap around, as in the reference."""
    max_depth_m: float = 10.0
    """Depth that becomes 255, metres."""
    probability: float = 0.25
    """Share of samples that get a strip."""
    max_share: float = 0.75
    """The strip takes at most this share of the width to the right of its beginning."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the image only; samples without depth stay."""
        if sample.depth_m is None or rng.random() >= self.probability:
            return sample
        width = sample.image.shape[1]
        start = rng.random() * width
        strip_px = int(max((width - start) * rng.random() * self.max_share, 1))
        strip = slice(int(start), int(start) + strip_px)
        image = sample.image.copy()
        image[:, strip] = self._levels(sample.depth_m[:, strip])[..., None]
        return replace(sample, image=image)

    def _levels(self, depth_m: NDArray[np.float32]) -> NDArray[np.uint8]:
        if self.scale == "wrap":
            return (np.rint(depth_m * 1000).astype(np.int64) % 256).astype(np.uint8)
        return np.clip(np.rint(depth_m * (255 / self.max_depth_m)), 0, 255).astype(np.uint8)
