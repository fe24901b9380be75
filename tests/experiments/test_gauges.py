"""The gauges of text-to-image models, on the shipped one: its words mean something."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

import vpd
from experiments.autoencoder import load_autoencoder
from experiments.gauges import attention_ratio, follow_rates, text_gap
from experiments.measures import nearest_colour
from experiments.scenes import SceneSet, prepare_scenes
from vpd.demo.samples import noise_schedule, sample_latents, to_pictures
from vpd.prompts.encoder import TextEncoder
from vpd.weights.shipped import FOLDER
from vpd.world.dataset import split_seed
from vpd.world.render import render
from vpd.world.sample_scene import sample_scene

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def networks():
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", torch_dtype=torch.float32)
    return unet.eval(), TextEncoder.from_pretrained("world")


def test_samples_follow_their_prompts():
    rates = follow_rates(vpd.load("world-segment", device="cpu"), repeats=1)
    assert rates["colour"] > 0.8 and rates["shape"] > 0.9 and rates["both"] > 0.75


def test_it_uses_its_captions(networks, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.scenes.SCENES_PER_SHARD", 24)
    prepare_scenes(tmp_path, split="test", count=24, size_px=64)
    _, gaps = text_gap(*networks, noise_schedule(), SceneSet.read(tmp_path, "test"))
    assert min(gaps[400], gaps[550], gaps[700]) > 0.1


def test_words_find_their_objects(networks):
    renderings = [render(sample_scene(split_seed(0, "test"), index), 64) for index in range(8)]
    assert attention_ratio(*networks, load_autoencoder(None), renderings)[1] > 1.3


def test_samples_have_the_colour_that_was_asked_for(networks):
    colours = ("red", "green", "blue", "yellow")
    place = "a room with a gray floor and gray walls, lit from the left"
    texts = [f"{place}: a large {colour} matte cone near in the middle" for colour in colours]
    drawn = to_pictures(load_autoencoder(None), sample_latents(*networks, noise_schedule(), texts, steps=15))
    for colour, picture in zip(colours, drawn, strict=True):
        pixels = picture.reshape(-1, 3).astype(int)
        coloured = pixels[np.ptp(pixels, axis=1) > 80]
        assert len(coloured) > 100 and nearest_colour(coloured) == colour
