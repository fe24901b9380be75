"""Attention to words: each word's tokens, at the picture's size, and where the shipped model finds its objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vpd import StableDiffusionBackbone
from vpd.inference.attention_maps import word_maps, words_of_tokens
from vpd.prompts.encoder import TextEncoder
from vpd.world.dataset import split_seed
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, sample_scene
from vpd.world.scenes import OBJECT_COLOURS


@pytest.fixture(scope="module")
def parts():
    return StableDiffusionBackbone.from_pretrained("world").eval(), TextEncoder.from_pretrained("world")


def test_words_of_several_tokens_stay_together(parts):
    words = words_of_tokens(parts[1], "the checkered Zylophonistic floor")
    assert [word for word, _ in words][0::3] == ["the", "floor"]
    places = [place for _, places in words for place in places]
    assert len(places) > 4 and places == list(range(1, len(places) + 1))
    assert words_of_tokens(parts[1], "") == []


def test_maps_have_the_size_of_any_picture(parts):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    maps = word_maps(*parts, image, "the red cube")
    assert [one.word for one in maps] == ["the", "red", "cube"]
    assert all(one.attention.shape == (50, 70) and (one.attention >= 0).all() for one in maps)
    assert torch.stack([one.attention for one in maps]).sum(dim=0).max() < 1
    assert maps[0].picture(image).size == (210, 150)
    with pytest.raises(ValueError, match=r"maps at strides \(8, 16, 32\), not at 4|maps at strides .*, not at 4"):
        word_maps(*parts, image, "the red cube", stride=4)


def test_colours_are_looked_for_where_they_are(parts):
    """Attention to a colour is higher on objects of that colour than on the others of the scene."""
    higher = []
    for index in range(8):
        rendering = render(sample_scene(split_seed(0, "test"), index, CROWDED_STYLE), 64)
        things = rendering.scene.things
        masks = [rendering.instances == number + 1 for number in range(len(things))]
        for colour in {thing.colour for thing in things}:
            (_, red, _) = word_maps(*parts, Image.fromarray(rendering.image), f"the {colour} object")
            on = [float(red.attention[torch.from_numpy(mask)].mean()) for mask in masks]
            own = [value for value, thing in zip(on, things, strict=True) if thing.colour == colour]
            other = [value for value, thing in zip(on, things, strict=True) if thing.colour != colour]
            if own and other:
                higher.append(np.mean(own) > np.mean(other))
    assert len(higher) >= 8 and np.mean(higher) > 0.8
    assert set(OBJECT_COLOURS) >= {"red", "blue"}
