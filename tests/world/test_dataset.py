"""The world as sample sets."""

import pickle

import numpy as np
import pytest
from expression_checker import facts_of, in_own_words, meant

from vpd.data.sample import Sample
from vpd.world.dataset import MOST_TEXTS, WorldSamples, split_seed
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, sample_scene
from vpd.world.scenes import CLASSES


def test_segment_sample():
    samples = WorldSamples("segment", "train", 3, 32)
    assert (samples.classes, samples.scenes, len(samples)) == (CLASSES, (), 3)
    sample = samples[1]
    assert isinstance(sample, Sample)
    assert sample.image.shape == (32, 32, 3)
    assert sample.labels.shape == (32, 32)
    assert sample.labels.max() < len(CLASSES)
    assert sample.mask is None
    assert sample.depth_m is None


def test_depth_sample():
    samples = WorldSamples("depth", "val", 2, (24, 32))
    assert (samples.classes, samples.scenes) == ((), ("room",))
    assert samples[0].depth_m.shape == (24, 32)
    assert samples[0].depth_m.dtype == np.float32
    assert samples[0].scene == "room"


def test_refer_samples_mean_their_mask():
    for split, most in [("train", MOST_TEXTS), ("test", 1)]:
        samples = WorldSamples("refer", split, 12, 48, seed=2)
        for index, sample in enumerate(samples):
            scene = sample_scene(samples.seed, index, CROWDED_STYLE)
            rendering = render(scene, 48)
            assert np.array_equal(rendering.image, sample.image)
            facts = facts_of(scene.things, rendering.instances, rendering.depth_m)
            assert 1 <= len(sample.texts) <= most
            for text in sample.texts:
                (place,) = meant(text, facts)
                assert np.array_equal(sample.mask, rendering.instances == place + 1)


def test_training_samples_say_it_in_many_ways():
    samples = WorldSamples("refer", "train", 150, 32)
    texts = [text for sample in samples for text in sample.texts]
    assert sum(in_own_words(text) != text for text in texts) / len(texts) == pytest.approx(0.4, abs=0.1)
    for words in ("on the left", "on the right", "closest", "at the back", "left of", "ball", "box", "nearer than"):
        assert any(words in text for text in texts), words


def test_other_splits_speak_the_words_of_the_world():
    assert all(in_own_words(text) == text for sample in WorldSamples("refer", "val", 60, 32) for text in sample.texts)


def test_same_sample_every_time_and_in_another_process():
    samples = WorldSamples("refer", "train", 4, 32)
    copy = pickle.loads(pickle.dumps(samples))
    for again in (samples[2], copy[2], WorldSamples("refer", "train", 9, 32, keep=True)[2]):
        assert again.texts == samples[2].texts
        assert again.name == samples[2].name
        assert np.array_equal(again.image, samples[2].image)
        assert np.array_equal(again.mask, samples[2].mask)


def test_keep_renders_once():
    samples = WorldSamples("segment", "train", 2, 16, keep=True)
    assert samples[0] is samples[0]
    assert samples[-2] is samples[0]


def test_splits_and_seeds_never_share_scenes():
    seeds = [split_seed(seed, split) for seed in range(5) for split in ("train", "val", "test")]
    assert len(set(seeds)) == len(seeds)
    scenes = {sample_scene(seed, index) for seed in seeds[:6] for index in range(10)}
    assert len(scenes) == 60


def test_iteration_ends():
    assert len(list(WorldSamples("segment", "test", 2, 8))) == 2
    with pytest.raises(IndexError, match="Sample 2 of a set of 2"):
        WorldSamples("segment", "test", 2, 8)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("paint", "train", 1), "Unknown task 'paint'"),
        (("segment", "dev", 1), "Unknown split 'dev'"),
        (("segment", "train", -1), "set of -1 samples"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WorldSamples(*arguments)
