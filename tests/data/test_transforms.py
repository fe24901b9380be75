from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd.data.batches import collate
from vpd.data.geometric import Squash
from vpd.data.sample import Sample
from vpd.data.transforms import draw_text, train_transform

TASKS = ("segment", "refer", "depth")


def scene(height: int, width: int, task: str) -> Sample:
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if task == "segment":
        return Sample("s", image, labels=rng.integers(0, 3, (height, width), dtype=np.uint8))
    if task == "refer":
        return Sample("s", image, mask=rng.random((height, width)) < 0.5, texts=("left cup", "the cup", "cup"))
    return Sample("s", image, depth_m=rng.random((height, width)).astype(np.float32) * 9, scene="kitchen")


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 999))
@pytest.mark.parametrize("recipe", ["reference", "default"])
@pytest.mark.parametrize("task", TASKS)
def test_every_training_sample_has_the_crop_size_once_collated(task, recipe, height, width, seed):
    transform = train_transform(task, recipe, crop_px=32)
    before = scene(height, width, task)
    after, again = (transform(before, np.random.default_rng(seed)) for _ in range(2))
    for part in fields(Sample):
        assert np.array_equal(np.asarray(getattr(after, part.name)), np.asarray(getattr(again, part.name)))
    batch = collate([after], pad_px=transform.pad_px)
    assert batch.images.shape == (1, 3, 32, 32)
    truth = {"segment": batch.labels, "refer": batch.masks, "depth": batch.depth_m}[task]
    assert truth is not None and truth.shape[-2:] == (32, 32)


def test_published_sizes():
    rng = np.random.default_rng(0)
    assert train_transform("segment", "reference").pad_px == 512
    assert train_transform("depth", "reference").pad_px == 480
    assert train_transform("refer", "reference")(scene(20, 30, "refer"), rng).image.shape == (512, 512, 3)


def test_reference_referring_only_squashes_and_draws_a_text():
    before = scene(20, 30, "refer")
    texts = set()
    for seed in range(30):
        after = train_transform("refer", "reference", crop_px=16)(before, np.random.default_rng(seed))
        squashed = Squash(16)(before, np.random.default_rng(seed))
        assert np.array_equal(after.image, squashed.image)
        assert squashed.texts == before.texts and len(after.texts) == 1
        texts |= set(after.texts)
    assert texts == set(before.texts)


def test_default_referring_also_mirrors():
    before = scene(20, 30, "refer")
    transform = train_transform("refer", "default", crop_px=16)
    texts = {transform(before, np.random.default_rng(seed)).texts for seed in range(60)}
    assert ("right cup",) in texts and ("left cup",) in texts


def test_draw_text_without_texts():
    before = scene(4, 4, "depth")
    assert draw_text(before, np.random.default_rng(0)) is before


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown task 'flow'; choose one of: segment, refer, depth"):
        train_transform("flow", "default")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown recipe 'mine'; choose one of: reference, default"):
        train_transform("refer", "mine")  # type: ignore[arg-type]
