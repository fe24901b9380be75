import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vpd.data.geometric import (
    RandomCrop,
    RandomFlip,
    RandomResize,
    Squash,
    flip,
    resize_image,
    resize_nearest,
    resize_sample,
)
from vpd.data.sample import Sample


def marked(height: int, width: int, seed: int = 0, **parts: object) -> Sample:
    """A sample whose parts all show the same pattern, so that they can be seen to move together."""
    pattern = np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)
    image = np.repeat(pattern[..., None], 3, axis=2)
    everything = {"labels": pattern, "mask": pattern > 99, "depth_m": pattern.astype(np.float32)}
    return Sample("marked", image, **{**everything, **parts})  # type: ignore[arg-type]


def parts_agree(sample: Sample) -> bool:
    assert sample.labels is not None and sample.mask is not None and sample.depth_m is not None
    return (
        np.array_equal(sample.image[..., 0], sample.labels)
        and np.array_equal(sample.labels > 99, sample.mask)
        and np.array_equal(sample.labels, sample.depth_m)
    )


@pytest.mark.parametrize("size", [(20, 31), (90, 120), (30, 90)])
def test_bilinear_as_opencv_does(size):
    """OpenCV's bilinear: half-pixel centres, four nearest pixels, no averaging when shrinking."""
    image = marked(45, 60).image
    expected = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].double(), size, mode="bilinear")
    resized = resize_image(image, size, antialias=False)
    assert resized.dtype == np.uint8
    assert np.abs(resized - expected[0].permute(1, 2, 0).numpy()).max() <= 1.01


def test_bilinear_as_pillow_does():
    image = marked(45, 60).image
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_image(image, (20, 30)), expected)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_nearest(height, width, new_height, new_width):
    values = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    expected = np.asarray(Image.fromarray(values).resize((new_width, new_height), Image.Resampling.NEAREST))
    resized = resize_nearest(values, (new_height, new_width))
    # Pillow and exact arithmetic may part where a centre falls on a border
    assert np.mean(resized == expected) >= 0.5 and resized.shape == expected.shape
    corner = resize_nearest(values, (new_height, new_width), centred=False)
    rows = np.arange(new_height) * height // new_height
    columns = np.arange(new_width) * width // new_width
    exact = [
        np.isclose(np.arange(n) * (o / n) % 1, 0) | np.isclose(np.arange(n) * (o / n) % 1, 1)
        for n, o in ((new_height, height), (new_width, width))
    ]
    clear = ~exact[0][:, None] & ~exact[1][None]
    assert np.array_equal(corner[clear], values[rows[:, None], columns][clear])


def test_nearest_by_hand():
    values = np.array([[0, 1, 2, 3]])
    assert resize_nearest(values, (1, 2)).tolist() == [[1, 3]]
    assert resize_nearest(values, (1, 2), centred=False).tolist() == [[0, 2]]
    assert resize_nearest(values, (2, 8))[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_depth_keeps_its_metres():
    resized = resize_sample(marked(8, 8), (3, 5)).depth_m
    assert resized is not None and resized.dtype == np.float32 and set(resized.ravel()) <= set(range(200))


def test_squash():
    squashed = Squash(7)(marked(5, 11), np.random.default_rng(0))
    assert squashed.image.shape == (7, 7, 3)
    assert squashed.mask is not None and squashed.mask.shape == (7, 7) and squashed.mask.dtype == np.bool_


@settings(deadline=None)
@given(st.integers(4, 60), st.integers(4, 60), st.integers(0, 99))
def test_random_resize_keeps_the_shape_and_the_limits(height, width, seed):
    resized = RandomResize(16, 64, (0.5, 2.0))(marked(height, width), np.random.default_rng(seed)).image
    h, w = resized.shape[:2]
    assert min(h, w) <= 32 and max(h, w) <= 128
    assert abs(h * width - w * height) <= max(height, width)


def test_random_resize_reaches_both_ends():
    resize = RandomResize(16, 64, (0.5, 2.0))
    sides = {resize(marked(20, 20), np.random.default_rng(seed)).image.shape[0] for seed in range(200)}
    assert min(sides) == 8 and max(sides) >= 31


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_random_crop(height, width, seed):
    cropped = RandomCrop(8)(marked(height, width, seed), np.random.default_rng(seed))
    assert cropped.image.shape[:2] == (min(height, 8), min(width, 8))
    assert parts_agree(cropped)


def test_random_crop_reaches_all_places():
    sample = marked(10, 9)
    corners = {RandomCrop(8)(sample, np.random.default_rng(seed)).image[0, 0, 0] for seed in range(200)}
    assert corners == set(sample.image[:3, :2, 0].ravel())


def test_crops_full_of_one_class_are_drawn_again():
    """Three quarters or more of one class is too much, ignored pixels not counted; after ten draws anything goes."""
    labels = np.zeros((10, 100), dtype=np.uint8)
    labels[:, 90:] = 1
    labels[:5] = 255
    sample = marked(10, 100, labels=labels)

    def share_of_good(crop: RandomCrop) -> float:
        good = 0
        for seed in range(100):
            cropped = crop(sample, np.random.default_rng(seed)).labels
            assert cropped is not None
            counts = np.bincount(cropped[cropped < 255], minlength=2)
            good += counts.max() < 0.75 * counts.sum()
        return good / 100

    plain, picky = share_of_good(RandomCrop(10)), share_of_good(RandomCrop(10, max_class_share=0.75))
    assert plain < 0.2 and plain + 0.2 < picky < 1  # 5 of 91 places are good: 1 - (86/91)^11 = 46 %


def test_flip_moves_everything_and_swaps_words():
    sample = marked(4, 7, texts=("left cup", "the cup"), scene="kitchen")
    mirrored = flip(sample)
    assert parts_agree(mirrored) and np.array_equal(mirrored.image, sample.image[:, ::-1])
    assert mirrored.texts == ("right cup", "the cup") and mirrored.scene == "kitchen"
    twice = flip(mirrored)
    assert np.array_equal(twice.image, sample.image) and twice.texts == sample.texts


def test_samples_with_unsure_words_are_not_mirrored():
    sample = marked(4, 7, texts=("cup right behind the vase",))
    assert flip(sample) is sample


def test_half_are_mirrored():
    sample = marked(4, 7)
    mirrored = sum(RandomFlip()(sample, np.random.default_rng(seed)) is not sample for seed in range(400))
    assert 160 < mirrored < 240
