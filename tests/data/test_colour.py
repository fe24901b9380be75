import colorsys

import numpy as np
import pytest

from vpd.data.colour import (
    BrightnessContrast,
    CutDepth,
    Gamma,
    HueSaturationValue,
    PhotometricDistortion,
    map_levels,
    shift_hsv,
)
from vpd.data.sample import Sample

LEVELS = np.arange(256, dtype=np.float32)
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def sample(seed: int = 0, **parts: object) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (6, 40, 3), dtype=np.uint8)
    return Sample("colours", image, **parts)  # type: ignore[arg-type]


def test_levels_are_clipped_and_rounded_down():
    image = np.array([[[0, 100, 255]]], dtype=np.uint8)
    assert map_levels(image, LEVELS * 1.5 - 10.2).tolist() == [[[0, 139, 255]]]


def test_hsv_against_exact_arithmetic():
    turned = shift_hsv(COLOURS, hue_deg=36, saturation_gain=0.8, value_shift=-10)
    exact = []
    for colour in COLOURS.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        exact.append(colorsys.hsv_to_rgb((hue + 0.1) % 1, saturation * 0.8, max(value - 10 / 255, 0)))
    difference = np.abs(turned.reshape(-1, 3) - 255 * np.array(exact))
    assert difference.mean() < 2 and difference.max() < 12  # hue in 256 steps


@pytest.mark.parametrize("hue_deg", [0, 360, -360])
def test_a_whole_turn_changes_nothing_much(hue_deg):
    assert np.abs(shift_hsv(COLOURS, hue_deg=hue_deg).astype(int) - COLOURS).max() <= 8


ALL = [PhotometricDistortion(), BrightnessContrast(), Gamma(), HueSaturationValue(), CutDepth()]


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_only_the_image_changes_and_only_by_the_generator(transform):
    before = sample(depth_m=np.full((6, 40), 5, dtype=np.float32), labels=np.zeros((6, 40), dtype=np.uint8))
    copy = before.image.copy()
    changed = 0
    for seed in range(60):
        after = transform(before, np.random.default_rng(seed))
        again = transform(before, np.random.default_rng(seed))
        assert after.image.dtype == np.uint8 and np.array_equal(after.image, again.image)
        assert after.labels is before.labels and after.depth_m is before.depth_m
        changed += not np.array_equal(after.image, before.image)
    assert np.array_equal(before.image, copy)
    assert 5 < changed < 60


def test_photometric_ranges():
    """On grey, hue and saturation do nothing: what is left is shift and gain, in either order."""
    grey = Sample("grey", np.full((1, 1, 3), 100, dtype=np.uint8))
    values = [PhotometricDistortion()(grey, np.random.default_rng(seed)).image[0, 0, 0] for seed in range(2000)]
    assert 34 <= min(values) < 45 and 185 < max(values) <= 198  # (100 -+ 32) * (0.5 .. 1.5)
    assert 0.2 < np.mean(np.array(values) == 100) < 0.3  # neither: a quarter


def test_brightness_contrast_and_gamma_ranges():
    grey = Sample("grey", np.full((1, 1, 3), 100, dtype=np.uint8))
    both = [BrightnessContrast()(grey, np.random.default_rng(seed)).image[0, 0, 0] for seed in range(2000)]
    assert 29 <= min(both) < 40 and 160 < max(both) <= 171  # 100 * (0.8 .. 1.2) -+ 51
    gamma = [Gamma()(grey, np.random.default_rng(seed)).image[0, 0, 0] for seed in range(500)]
    assert min(gamma) in (82, 83) and max(gamma) in (119, 120, 121)  # 255 * (100 / 255) ** (1.2 .. 0.8)


def strip_of(before: Sample, after: Sample) -> slice:
    changed = np.flatnonzero((before.image != after.image).any(axis=(0, 2)))
    return slice(int(changed.min()), int(changed.max()) + 1)


def test_cut_depth_in_proper_scale():
    depth_m = np.linspace(0, 12, 240, dtype=np.float32).reshape(6, 40)
    before = sample(depth_m=depth_m)
    widths = []
    for seed in range(40):
        after = CutDepth(probability=1)(before, np.random.default_rng(seed))
        strip = strip_of(before, after)
        widths.append(strip.stop - strip.start)
        expected = np.minimum(np.rint(depth_m[:, strip] * 25.5), 255)
        assert all(np.array_equal(after.image[:, strip, channel], expected) for channel in range(3))
    assert min(widths) == 1 and 10 < max(widths) <= 30


def test_cut_depth_as_the_reference_wraps_it():
    before = sample(depth_m=np.full((6, 40), 2.345, dtype=np.float32))
    after = CutDepth("wrap", probability=1)(before, np.random.default_rng(3))
    assert np.unique(after.image[:, strip_of(before, after)]).tolist() == [2345 % 256]


def test_cut_depth_takes_every_fourth_sample_and_none_without_depth():
    before = sample(depth_m=np.ones((6, 40), dtype=np.float32))
    cut = [CutDepth()(before, np.random.default_rng(seed)) is not before for seed in range(800)]
    assert 150 < sum(cut) < 250
    bare = sample()
    assert CutDepth(probability=1)(bare, np.random.default_rng(0)) is bare
