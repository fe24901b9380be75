"""Pictures to train a small network on, and random squares of them."""

import numpy as np
import pytest
from PIL import Image

from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.pretraining.pictures import (
    HELD_OUT,
    Photographs,
    RandomSquare,
    find_pictures,
    middle_crop,
    middles,
    random_crop,
    read_small,
)


@pytest.fixture
def folder(tmp_path):
    for number in range(25):
        Image.new("RGB", (40 + number, 30), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    return tmp_path


def test_every_tenth_photograph_is_held_out(folder):
    train_set, held_out, _ = find_pictures(folder, size_px=16, seed=0)
    assert (len(train_set), len(held_out)) == (22, 3)
    assert not set(train_set.sample_keys()) & set(held_out.sample_keys())
    assert list(held_out.sample_keys()) == ["00.png", "10.png", "20.png"]
    assert train_set[0].image.shape == (30, 41, 3) and train_set[0].image[0, 0].tolist() == [1, 0, 0]


def test_scenes_of_the_world_are_held_out_too():
    train_set, held_out, _ = find_pictures("world", size_px=16, seed=0)
    assert len(held_out) == HELD_OUT and not np.array_equal(train_set[0].image, held_out[0].image)


def test_what_cannot_be_read_is_told_and_passed_over(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    samples = Photographs([tmp_path / "a.png", tmp_path / "b.png"], 64)
    with pytest.raises(UsageError, match=r"a\.png"):
        samples[0]
    assert [one.shape for one in middles(samples, 16)] == [(1, 3, 16, 16)]


@pytest.mark.parametrize(
    ("images", "size_px", "message"),
    [("world", 12, "at least 16"), ("world", 30, "multiple of 8"), ("no/where", 16, "no/where is not a folder")],
)
def test_wrong_requests(images, size_px, message):
    with pytest.raises(UsageError, match=message):
        find_pictures(images, size_px=size_px, seed=0)


def test_square_of_a_sample_depends_on_its_generator_alone():
    image = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    one, same, other = (RandomSquare(16)(Sample("a", image), np.random.default_rng(seed)).image for seed in (1, 1, 2))
    assert one.shape == (16, 16, 3) and np.array_equal(one, same) and not np.array_equal(one, other)


def test_smaller_scales_are_filled_up_with_mirror_images():
    image = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    square = RandomSquare(32, scales=(0.5,))(Sample("a", image), np.random.default_rng(0)).image
    part = square[:16, :16]
    assert square.shape == (32, 32, 3) and (np.array_equal(part, image) or np.array_equal(part, image[:, ::-1]))
    assert np.array_equal(square[:16, 16:], part[:, ::-1]) and np.array_equal(square[16:, :16], part[::-1])


def test_big_photographs_are_kept_small(tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "big.png")
    assert read_small(tmp_path / "big.png", 100).size == (200, 100)
    assert read_small(tmp_path / "big.png", 300).size == (400, 200)


def test_crops_of_a_ramp():
    """Columns of the picture grow by one; a crop shows a run of them, perhaps backwards."""
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    for seed in range(8):
        columns = random_crop(image, 32, np.random.default_rng(seed))[..., 0].astype(int)
        assert (columns == columns[:1]).all()
        steps = np.diff(columns[0])
        assert (steps >= 0).all() or (steps <= 0).all()
        assert 28 <= abs(columns[0, -1] - columns[0, 0]) <= 63
    middle = middle_crop(Image.fromarray(np.asarray(image)[:, 16:48]), 32)
    assert np.array_equal(middle[0, :, 0], np.arange(16, 48))


def test_picture_smaller_than_the_crop():
    assert random_crop(Image.new("RGB", (9, 5)), 32, np.random.default_rng(0)).shape == (32, 32, 3)
