"""Streams of image batches."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from vpd.errors import UsageError
from vpd.pretraining import crops
from vpd.pretraining.crops import middle_crop, photo_batches, random_crop, read_small, world_batches


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(crops, "PIXELS_PER_BATCH", 2 * 32 * 32)


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for index, size in enumerate([(40, 50), (90, 60), (20, 24)]):
        Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["world", "photographs"])
def test_batches_go_on_from_any_step(source, photographs):
    def batches(start):
        if source == "world":
            return world_batches((16, 32), seed=3, start=start)
        return photo_batches(photographs, 32, seed=3, start=start)

    whole = list(islice(batches(0), 5))
    rest = list(islice(batches(3), 2))
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], rest, strict=True))
    assert not torch.equal(whole[0][:1], whole[1][:1])
    for images in whole:
        assert images.dtype == torch.float32
        assert images.min() >= -1
        assert images.max() <= 1
        assert images.numel() == 3 * 2 * 32 * 32  # small pictures come in bigger batches


def test_unreadable_file_is_named_and_the_next_is_taken(photographs, caplog):
    photographs[1].write_text("no image")
    images = list(islice(photo_batches(photographs, 32, seed=0), 6))
    assert len(images) == 6
    assert sum(photographs[1].name in record.message for record in caplog.records) == 1


def test_no_readable_file(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UsageError, match="None of the 1 images"):
        next(photo_batches([tmp_path / "a.png"], 32, seed=0))


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
