"""Scenes drawn from a seed and an index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vpd.world.ray_casting import cast
from vpd.world.scenes import (
    FLOOR_PATTERNS,
    MATERIALS,
    OBJECT_COLOURS,
    SHAPES,
    SURFACE_COLOURS,
    Camera,
    Light,
    Room,
    Scene,
    Thing,
)

REFERENCE_PX = 32
"""Side of the small picture that decides whether a draw is accepted, whatever size is rendered later."""
MOST_DRAWS = 5000
"""About 1 in 10 draws of the two styles below is accepted."""


@dataclass(frozen=True)
class SceneStyle:
    """What kind of scenes to draw."""

    things: tuple[int, int] = (1, 4)
    """Fewest and most objects."""
    share_attributes: bool = False
    """Let objects repeat shapes and colours, so that few words rarely single one out."""
    coverage: tuple[float, float] = (0.25, 0.35)
    """Least and greatest share of pixels on objects, seen in a square picture."""
    visible: float = 0.012
    """Every object covers at least this share of the pixels."""
    unhidden: float = 0.4
    """And about this share of what it would cover if nothing stood before it."""


DEFAULT_STYLE = SceneStyle()
CROWDED_STYLE = SceneStyle(things=(3, 5), share_attributes=True)
"""For referring expressions: several objects alike."""


def sample_scene(seed: int, index: int, style: SceneStyle = DEFAULT_STYLE, *, attempt: int = 0) -> Scene:
    """The scene of a set's seed and of an index, both >= 0: always the same one.

    Another `attempt` is another scene for the same place, where the first does not serve.

    Raises:
        ValueError: If no scene of this style can be found.
    """
    rng = np.random.default_rng((seed, index, attempt))
    for _ in range(MOST_DRAWS):
        scene = draw_layout(rng, style)
        if scene is not None and _is_well_filled(scene, style):
            return scene
    raise ValueError(f"{MOST_DRAWS} draws gave no scene of {style}. Ask for fewer objects or another coverage.")


def _is_well_filled(scene: Scene, style: SceneStyle) -> bool:
    """Whether objects cover their share of a small picture and none is hidden."""
    instances = cast(scene, REFERENCE_PX, REFERENCE_PX).instances
    shares = np.bincount(instances.ravel(), minlength=len(scene.things) + 1)[1:] / instances.size
    focal, camera_x = scene.camera.focal, scene.camera.x_m
    whole = [2.6 * (one.radius_m * focal) ** 2 / ((one.x_m - camera_x) ** 2 + one.z_m**2) for one in scene.things]
    enough = all(share >= max(style.visible, style.unhidden * area) for share, area in zip(shares, whole, strict=True))
    return enough and style.coverage[0] <= shares.sum() <= style.coverage[1]


def draw_layout(rng: np.random.Generator, style: SceneStyle) -> Scene | None:
    """One draw of a scene; none where the objects could not be placed apart from each other."""
    count = int(rng.integers(style.things[0], style.things[1] + 1))
    room = Room(
        width_m=float(rng.uniform(6.0, 8.0)),
        depth_m=float(rng.uniform(6.4, 8.8)),
        height_m=float(rng.uniform(2.8, 3.8)),
        floor_colour=_pick(rng, tuple(SURFACE_COLOURS)),
        floor_pattern=_pick(rng, FLOOR_PATTERNS),
        tile_m=float(rng.uniform(0.75, 1.2)),
        wall_colour=_pick(rng, tuple(SURFACE_COLOURS)),
    )
    camera = Camera(
        x_m=float(rng.uniform(-0.5, 0.5)),
        height_m=float(rng.uniform(1.35, 1.85)),
        yaw_rad=float(rng.uniform(-0.16, 0.16)),
        pitch_rad=float(rng.uniform(0.12, 0.26)),
        focal=float(rng.uniform(0.98, 1.12)),
    )
    things = _draw_things(rng, style, camera, count)
    return None if things is None else Scene(things, room, camera, _draw_light(rng))


def _draw_things(rng: np.random.Generator, style: SceneStyle, camera: Camera, count: int) -> tuple[Thing, ...] | None:
    """Objects in the view and apart from each other, or none."""
    colours: tuple[str, ...] = tuple(OBJECT_COLOURS)
    shapes: tuple[str, ...] = SHAPES
    if style.share_attributes:  # few values to draw from, so that objects come out alike
        colours = tuple(rng.choice(colours, size=2, replace=False))
        shapes = tuple(rng.choice(SHAPES, size=2, replace=False))
    things: list[Thing] = []
    for _ in range(count * 8):
        size = "large" if rng.random() < (0.85 if count == 1 else 0.5) else "small"
        distance_m = rng.uniform(2.7, 3.6) if count == 1 else rng.uniform(2.9, 5.6)
        across = rng.uniform(-0.36, 0.36) * distance_m / camera.focal
        sin, cos = math.sin(camera.yaw_rad), math.cos(camera.yaw_rad)
        thing = Thing(
            shape=_pick(rng, shapes),
            colour=_pick(rng, colours),
            material=_pick(rng, MATERIALS),
            size=size,
            x_m=float(camera.x_m + distance_m * sin + across * cos),
            z_m=float(distance_m * cos - across * sin),
            yaw_rad=float(rng.uniform(0.0, 2 * math.pi)),
            brightness=float(rng.uniform(0.88, 1.08)),
        )
        if all(_apart(thing, other) for other in things):
            things.append(thing)
        if len(things) == count:
            return tuple(things)
    return None


def _draw_light(rng: np.random.Generator) -> Light:
    """A light from above the viewer's left or right shoulder."""
    across = rng.uniform(0.25, 0.9) * (1 if rng.random() < 0.5 else -1)
    towards = np.array([across, rng.uniform(0.7, 1.1), rng.uniform(-0.9, -0.3)])
    towards /= np.linalg.norm(towards)
    return Light((float(towards[0]), float(towards[1]), float(towards[2])), float(rng.uniform(0.40, 0.54)))


def _apart(one: Thing, other: Thing) -> bool:
    """Whether two objects leave a gap between them, whatever their shapes and turns."""
    return math.hypot(one.x_m - other.x_m, one.z_m - other.z_m) > 1.12 * (one.radius_m + other.radius_m)


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return str(words[int(rng.integers(len(words)))])
