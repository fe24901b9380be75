"""The training transforms of the recipes, built from `geometric` and `colour`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from vpd.config import Recipe, Task
from vpd.data.colour import BrightnessContrast, CutDepth, Gamma, HueSaturationValue, PhotometricDistortion
from vpd.data.geometric import RandomCrop, RandomFlip, RandomResize, Squash
from vpd.data.sample import Sample, Transform

CROP_PX: dict[Task, int] = {"segment": 512, "refer": 512, "depth": 480}
"""Side of the published training crops, pixels; the depth model itself pads 480 to 512."""


@dataclass(frozen=True)
class Pipeline:
    """Transforms one after the other; the result depends on the sample and the generator alone."""

    steps: tuple[Transform, ...] = ()
    """Applied in this order."""
    pad_px: int | None = None
    """Side that collation pads samples to. The reference pads after scaling to [-1, 1], with zeros: mid-grey, which
    8-bit pixels cannot hold, so padding here would not be exact."""

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


def train_transform(
    task: Task,
    recipe: Recipe,
    *,
    crop_px: int | None = None,
    short_px: int | None = None,
    ratio: tuple[float, float] = (0.5, 2.0),
    max_depth_m: float = 10.0,
) -> Pipeline:
    """The augmentation of a recipe.

    Args:
        task: What is trained.
        recipe: `reference` = as published; `default` = ours.
        crop_px: Side of the training images, pixels; none = as published (512, 512, 480).
        short_px: segment: short side that `ratio` multiplies, pixels; none = `crop_px`. The long side may be 4
            times as long, as in the published 2048x512.
        ratio: segment: smallest and largest resize ratio.
        max_depth_m: depth: what CutDepth in proper scale shows as white, metres.

    Raises:
        ValueError: If task or recipe is unknown.
    """
    if task not in get_args(Task):
        raise ValueError(f"unknown task {task!r}; choose one of: {', '.join(get_args(Task))}")
    if recipe not in get_args(Recipe):
        raise ValueError(f"unknown recipe {recipe!r}; choose one of: {', '.join(get_args(Recipe))}")
    is_reference = recipe == "reference"
    crop_px = crop_px or CROP_PX[task]
    if task == "segment":
        short_px = short_px or crop_px
        resize = RandomResize(short_px, 4 * short_px, ratio, like_opencv=is_reference)
        crop = RandomCrop(crop_px, max_class_share=0.75)
        return Pipeline((resize, crop, RandomFlip(), PhotometricDistortion()), pad_px=crop_px)
    if task == "refer":
        # no hue: the expressions name colours
        mild = (RandomFlip(), BrightnessContrast(), HueSaturationValue(hue_deg=0))
        return Pipeline((draw_text, *(() if is_reference else mild), Squash(crop_px)))
    cut = CutDepth("wrap" if is_reference else "metric", max_depth_m)
    colours = (BrightnessContrast(), Gamma(), HueSaturationValue())
    return Pipeline((cut, RandomFlip(), RandomCrop(crop_px), *colours), pad_px=crop_px)
