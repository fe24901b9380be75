"""Every expression means exactly one object, by a checker that knows only words and pixels."""

from collections import Counter

import pytest
from expression_checker import facts_of, meant

from vpd.data.geometric import mirror_text
from vpd.world.expressions import definite_phrases, expressions, seen_things
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene
from vpd.world.scenes import Camera, Scene, Thing


@pytest.fixture(scope="module")
def renderings():
    crowded = [render(sample_scene(21, index, CROWDED_STYLE), 64) for index in range(60)]
    default = [render(sample_scene(21, index, DEFAULT_STYLE), 64) for index in range(30)]
    wide = [render(sample_scene(22, index, CROWDED_STYLE), (48, 96)) for index in range(30)]
    return crowded + default + wide


def test_each_expression_means_exactly_its_object(renderings):
    kinds = Counter()
    for rendering in renderings:
        facts = facts_of(rendering.scene.things, rendering.instances, rendering.depth_m)
        for expression in expressions(rendering):
            assert meant(expression.text, facts) == {expression.index}, expression.text
            kinds[expression.kind] += 1
    assert min(kinds["attribute"], kinds["superlative"], kinds["relation"]) > 500


def test_each_expression_means_the_same_object_in_the_mirror(renderings):
    for rendering in renderings[::5]:
        facts = facts_of(rendering.scene.things, rendering.instances[:, ::-1], rendering.depth_m[:, ::-1])
        for expression in expressions(rendering):
            mirrored = mirror_text(expression.text)
            assert mirrored is not None
            assert meant(mirrored, facts) == {expression.index}


def test_crowded_scenes_are_hard(renderings):
    """Shape and colour together seldom single an object out, and something can be said of nearly all."""
    objects = named = said = 0
    for rendering in renderings[:60]:
        things = rendering.scene.things
        alike = Counter((thing.colour, thing.shape) for thing in things)
        objects += len(things)
        named += sum(alike[thing.colour, thing.shape] == 1 for thing in things)
        said += len({expression.index for expression in expressions(rendering)})
    assert named / objects < 0.6
    assert said / objects > 0.9


def twins(**kwargs):
    return tuple(Thing("cube", "red", "matte", "large", x_m, **kwargs) for x_m in (-1.0, 1.0))


def test_twins_are_told_apart_by_place_alone():
    rendering = render(Scene(twins(z_m=4.0), camera=Camera(pitch_rad=0.2)), 64)
    texts = {expression.text: expression.index for expression in expressions(rendering)}
    assert {expression.kind for expression in expressions(rendering)} == {"superlative"}
    assert texts["the leftmost cube"] == 0
    assert texts["the rightmost red object"] == 1
    assert not any("nearest" in text or "largest" in text for text in texts)  # they are equally far and big


def test_relation_by_hand():
    ball = Thing("sphere", "blue", "metal", "large", 0.0, 4.0)
    rendering = render(Scene((*twins(z_m=4.0), ball), camera=Camera(pitch_rad=0.2)), 64)
    texts = {expression.text: expression.index for expression in expressions(rendering)}
    assert texts["the cube to the left of the sphere"] == 0
    assert texts["the red object to the right of the sphere"] == 1
    assert texts["the sphere"] == texts["the blue sphere"] == texts["the metal object"] == 2


def test_phrases_of_one_object_by_hand():
    rendering = render(
        Scene(
            (*twins(z_m=4.0), Thing("cube", "blue", "matte", "large", 0.0, 4.0)),
        ),
        64,
    )
    seen = seen_things(rendering)
    assert [thing.index for thing in seen] == [0, 2, 1]  # from left to right
    assert definite_phrases(seen[1], seen) == ("the blue cube", "the blue object")
    assert definite_phrases(seen[0], seen) == ()
