"""Scenes: seeded, filled as promised, with every word of the world in them."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from vpd.world import sample_scene as sampling
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, SceneStyle, sample_scene
from vpd.world.scenes import FLOOR_PATTERNS, MATERIALS, OBJECT_COLOURS, SHAPES, SIZES_M, SURFACE_COLOURS


@pytest.fixture(scope="module", params=[DEFAULT_STYLE, CROWDED_STYLE], ids=["default", "crowded"])
def drawn(request):
    return request.param, [sample_scene(11, index, request.param) for index in range(120)]


def test_scene_is_a_function_of_seed_and_index():
    assert sample_scene(4, 7) == sample_scene(4, 7)
    others = [sample_scene(4, 8), sample_scene(5, 7), sample_scene(4, 7, attempt=1), sample_scene(4, 7, CROWDED_STYLE)]
    assert all(other != sample_scene(4, 7) for other in others)


def test_objects_cover_a_quarter_to_a_third(drawn):
    style, scenes = drawn
    renderings = [render(scene, 64) for scene in scenes]
    shares = np.array([(rendering.instances > 0).mean() for rendering in renderings])
    assert 0.25 < shares.mean() < 0.35
    assert shares.min() > 0.23  # drawn on a coarser grid, so not quite 0.25
    assert shares.max() < 0.37
    for scene, rendering in zip(scenes, renderings, strict=True):
        counts = np.bincount(rendering.instances.ravel(), minlength=len(scene.things) + 1)[1:]
        assert counts.min() > 0.008 * 64 * 64
        assert style.things[0] <= len(scene.things) <= style.things[1]


def test_depth_range(drawn):
    depths = [render(scene, 32).depth_m for scene in drawn[1][:40]]
    assert min(depth.min() for depth in depths) > 1.5
    assert 6 < max(depth.max() for depth in depths) < 10


def test_objects_stand_apart(drawn):
    for scene in drawn[1]:
        for one, other in combinations(scene.things, 2):
            assert math.hypot(one.x_m - other.x_m, one.z_m - other.z_m) > one.radius_m + other.radius_m


def test_every_word_occurs():
    scenes = [sample_scene(0, index) for index in range(150)]
    things = [thing for scene in scenes for thing in scene.things]
    for attribute, words in [
        ("shape", SHAPES),
        ("colour", OBJECT_COLOURS),
        ("material", MATERIALS),
        ("size", SIZES_M),
    ]:
        counts = Counter(getattr(thing, attribute) for thing in things)
        assert set(counts) == set(words)
        assert min(counts.values()) > 0.25 * len(things) / len(words)
    assert {scene.room.floor_pattern for scene in scenes} == set(FLOOR_PATTERNS)
    assert {scene.room.wall_colour for scene in scenes} == set(SURFACE_COLOURS)
    assert {scene.light.towards[0] < 0 for scene in scenes} == {True, False}


def test_crowded_scenes_hold_objects_that_are_alike():
    scenes = [sample_scene(0, index, CROWDED_STYLE) for index in range(40)]
    for scene in scenes:
        assert len({thing.colour for thing in scene.things}) < len(scene.things)
        assert len({thing.shape for thing in scene.things}) < len(scene.things)


def test_style_is_obeyed():
    style = SceneStyle(things=(2, 2), coverage=(0.10, 0.20))
    for index in range(10):
        scene = sample_scene(0, index, style)
        assert len(scene.things) == 2
        assert 0.09 < (render(scene, 64).instances > 0).mean() < 0.21


def test_impossible_style(monkeypatch):
    monkeypatch.setattr(sampling, "MOST_DRAWS", 20)
    with pytest.raises(ValueError, match="20 draws gave no scene"):
        sample_scene(0, 0, SceneStyle(coverage=(0.98, 0.99)))
