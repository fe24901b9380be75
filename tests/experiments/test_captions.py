"""Captions: the long one by hand and complete, short ones true of the picture by a checker of words and pixels."""

import re
from collections import Counter

import numpy as np
import pytest
from expression_checker import RELATIONS, facts_of, named

from experiments.captions import caption, short_caption
from vpd.data.geometric import mirror_text
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene
from vpd.world.scenes import CLASSES, SHAPES, Camera, Light, Room, Scene, Thing


@pytest.fixture(scope="module")
def renderings():
    styles = (CROWDED_STYLE, DEFAULT_STYLE)
    return [render(sample_scene(23, index, styles[index % 2]), 64) for index in range(60)]


def test_caption_by_hand():
    things = (
        Thing("cone", "green", "striped", "small", 1.0, 4.0),
        Thing("cube", "red", "metal", "large", -1.0, 4.0),
    )
    room = Room(floor_colour="gray", floor_pattern="checkered", wall_colour="light blue", height_m=3.0)
    camera = Camera(pitch_rad=0.0, focal=0.6)
    assert caption(render(Scene(things, room, camera, Light(towards=(0.6, 0.8, 0.0))), 64)) == (
        "a room with a gray checkered floor, light blue walls and a white ceiling, lit from the right: "
        "a large red metal cube in the middle and a small green striped cone in the middle"
    )
    down = Camera(pitch_rad=0.6)  # sees no ceiling
    assert "ceiling" not in caption(render(Scene(things, room, down), 64))
    assert caption(render(Scene((), Room(floor_pattern="plain"), camera), 64)) == (
        "a room with a gray floor, beige walls and a white ceiling, lit from the left"
    )


def test_caption_names_everything_seen(renderings):
    for rendering in renderings:
        words = caption(rendering)
        for index, thing in enumerate(rendering.scene.things):
            is_seen = bool(np.any(rendering.instances == index + 1))
            named = f"a {thing.size} {thing.colour} {thing.material} {thing.shape}"
            assert not is_seen or named in words


def test_places_by_hand():
    things = [Thing("cube", "red", "matte", "small", x_m, z_m) for x_m, z_m in ((-1.2, 3.0), (0.0, 4.0), (1.9, 5.5))]
    words = caption(render(Scene(tuple(things), camera=Camera(pitch_rad=0.2)), 64))
    cube = "a small red matte cube"
    assert words.endswith(f"{cube} near on the left, {cube} in the middle and {cube} far on the right")


def test_short_captions_are_true_of_the_picture(renderings):
    kinds = Counter()
    for number, rendering in enumerate(renderings):
        facts = facts_of(rendering.scene.things, rendering.instances, rendering.depth_m)
        room = rendering.scene.room
        for draw in range(12):
            text = short_caption(rendering, np.random.default_rng((number, draw)))
            words = text.removeprefix("a photo of ").removesuffix(".")
            noun = words.split()[-1]
            if noun in CLASSES and noun not in SHAPES:
                kinds["surface"] += 1
                colours = {"floor": room.floor_colour, "wall": room.wall_colour, "ceiling": "white"}
                described = words.split(" ", 1)[1]
                assert described == noun or described.startswith(colours[noun])
            elif " and " in words:
                kinds["pair"] += 1
            elif not any(place in words for place in (" on the ", " in the ")):
                kinds["object"] += 1
                assert _is_true(words, facts), text
            else:
                kinds["place"] += 1
    assert min(kinds["surface"], kinds["object"], kinds["place"]) > 50


def _is_true(words, facts):
    """Whether some objects of the picture stand to each other as the words say; the checker's relations and names."""
    for relation, holds in RELATIONS.items():
        if f" {relation} " in words:
            one, other = (named(_bare(phrase), facts) for phrase in words.split(f" {relation} "))
            return any(holds(a, b) for a in one for b in other if a is not b)
    return bool(named(_bare(words), facts))


def _bare(phrase):
    """A noun phrase without its article."""
    return re.sub(r"^(a|an|the) ", "", phrase)


def test_captions_can_be_mirrored(renderings):
    for rendering in renderings:
        rng = np.random.default_rng(1)
        for text in (caption(rendering), *(short_caption(rendering, rng) for _ in range(4))):
            mirrored = mirror_text(text)
            assert mirrored is not None and mirror_text(mirrored) == text


def test_articles():
    assert not [words for words in _short_texts() if " a o" in f" {words}" or " an r" in f" {words}"]


def _short_texts():
    rendering = render(sample_scene(24, 0, CROWDED_STYLE), 64)
    return [short_caption(rendering, np.random.default_rng(draw)) for draw in range(100)]
