"""Streams of image batches."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import crops
from experiments.crops import photo_batches, world_batches
from vpd.errors import UsageError


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
