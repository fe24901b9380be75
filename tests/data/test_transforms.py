from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd.data.batches import collate
from vpd.data.geometric import Squash
from vpd.data.sample import Sample
from vpd.data.transforms import draw_text
from vpd.tasks.table import TASKS


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
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_training_sample_has_the_crop_size_once_collated(task, recipe, height, width, seed):
    transform = TASKS[task].augmentation(recipe, 32)
    before = scene(height, width, task)
    after, again = (transform(before, np.random.default_rng(seed)) for _ in range(2))
    for part in fields(Sample):
        assert np.array_equal(np.asarray(getattr(after, part.name)), np.asarray(getattr(again, part.name)))
    batch = collate([after], pad_px=transform.pad_px)
    assert batch.images.shape == (1, 3, 32, 32)
    truth = {"segment": batch.labels, "refer": batch.masks, "depth": batch.depth_m}[task]
    assert truth is not None and truth.shape[-2:] == (32, 32)


def test_published_sizes():
    crops_px = {name: task.recipes["reference"]["crop_px"] for name, task in TASKS.items()}
    assert crops_px == {"segment": 512, "refer": 512, "depth": 480}


def test_reference_referring_only_squashes_and_draws_a_text():
    before = scene(20, 30, "refer")
    texts = set()
    for seed in range(30):
        after = TASKS["refer"].augmentation("reference", 16)(before, np.random.default_rng(seed))
        assert np.array_equal(after.image, Squash(16)(before, np.random.default_rng(seed)).image)
        assert len(after.texts) == 1
        texts |= set(after.texts)
    assert texts == set(before.texts)


def test_default_referring_also_mirrors():
    before = scene(20, 30, "refer")
    transform = TASKS["refer"].augmentation("default", 16)
    texts = {transform(before, np.random.default_rng(seed)).texts for seed in range(60)}
    assert ("right cup",) in texts and ("left cup",) in texts


def test_draw_text_without_texts():
    before = scene(4, 4, "depth")
    assert draw_text(before, np.random.default_rng(0)) is before


@pytest.mark.parametrize("recipe", ["reference", "default"])
def test_which_images_come_again_as_they_were(recipe):
    repeating = {name for name, task in TASKS.items() if task.augmentation(recipe, 32).repeats_images}
    assert repeating == ({"refer"} if recipe == "reference" else set())
