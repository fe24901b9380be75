"""From a scene to a picture with exact labels, instances and depth: materials, patterns, one light, hard shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpd.world.ray_casting import (
    BOUND,
    FLOOR,
    HALF_HEIGHT,
    Array,
    Hits,
    camera_origin,
    cast,
    class_labels,
    from_unit,
    hit_distance,
    surface_normal,
    thing_centre,
    to_unit,
)
from vpd.world.scenes import OBJECT_COLOURS, SURFACE_COLOURS, Room, Scene, Thing

ROOM_NORMALS = np.array([(0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, -1), (0, 0, 1)], dtype=np.float32)
"""Inward normal of each side of the room: floor, ceiling, left, right, back and front wall."""
CEILING_COLOUR = (0.93, 0.93, 0.92)
CEILING_LIGHT = 0.85
"""The light never reaches the ceiling directly; it gets this much from below."""
STRIPES = 5.0
"""Stripes along the height of an object, as many dark as light."""
SHININESS = 24


@dataclass(frozen=True)
class Rendering:
    """A picture and everything that is known about it."""

    scene: Scene
    image: NDArray[np.uint8]
    """`(H, W, 3)` RGB, four samples a pixel."""
    labels: NDArray[np.uint8]
    """`(H, W)` semantic class at the centre of each pixel."""
    instances: NDArray[np.uint8]
    """`(H, W)`: 0 the room, i + 1 object i of the scene."""
    depth_m: Array
    """`(H, W)` depth along the camera's axis, metres."""


def render(scene: Scene, size_px: int | tuple[int, int] = 128) -> Rendering:
    """The picture of a scene, of a side or of a height and width in pixels.

    Raises:
        ValueError: If a side is not at least one pixel.
    """
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    if height < 1 or width < 1:
        raise ValueError(f"Picture size is {height}x{width}; both sides must be at least 1 pixel.")
    hits = cast(scene, height, width)
    colours = shade(scene, cast(scene, 2 * height, 2 * width))  # (3, 2H, 2W)
    mean = colours.reshape(3, height, 2, width, 2).mean(axis=(2, 4))
    image = np.ascontiguousarray((mean.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
    return Rendering(scene, image, class_labels(scene, hits), hits.instances, hits.depth_m)


def shade(scene: Scene, hits: Hits) -> Array:
    """Colour `(3, H, W)` of every ray, RGB, about [0, 1]."""
    points = camera_origin(scene.camera)[:, None, None] + hits.rays * hits.depth_m
    lit = light_share(scene, points, hits.instances)
    colours = _room_colours(scene, hits, points, lit)
    for index, thing in enumerate(scene.things):
        rows, columns = np.nonzero(hits.instances == index + 1)
        if rows.size:
            colours[:, rows, columns] = _thing_colours(
                scene, thing, points[:, rows, columns], hits.rays[:, rows, columns], lit[rows, columns]
            )
    return colours


def light_share(scene: Scene, points: Array, instances: NDArray[np.uint8]) -> Array:
    """1 where nothing stands between the light and points `(3, H, W)` of the surfaces of `instances`, else 0."""
    lit = np.ones(instances.shape, dtype=np.float32)
    light = np.array(scene.light.towards, dtype=np.float32)
    for index, thing in enumerate(scene.things):
        away = points - thing_centre(thing)[:, None, None]
        along = np.tensordot(light, away, axes=1)
        bound = BOUND[thing.shape] * thing.radius_m
        is_close = ((away * away).sum(0) - along * along < bound**2) & (along < bound)
        rows, columns = np.nonzero(is_close & (instances != index + 1))  # a convex shape is not in its own shadow
        start = to_unit(thing, away[:, rows, columns])
        distance = hit_distance(thing.shape, start, to_unit(thing, light)[:, None])
        lit[rows, columns] *= np.isinf(distance)
    return lit


def _room_colours(scene: Scene, hits: Hits, points: Array, lit: Array) -> Array:
    """Colour of the room at every pixel, as if no object stood in the way."""
    room, light = scene.room, scene.light
    wall = SURFACE_COLOURS[room.wall_colour]
    base = np.array([SURFACE_COLOURS[room.floor_colour], CEILING_COLOUR, wall, wall, wall, wall], np.float32)
    facing: Array = np.dot(ROOM_NORMALS, np.array(light.towards, np.float32)).clip(0)
    direct = facing * np.float32(1 - light.ambient)
    ambient = np.full(6, light.ambient + 0.15, np.float32)
    ambient[1] = CEILING_LIGHT
    strength: Array = ambient[hits.surfaces] + direct[hits.surfaces] * lit
    strength *= np.where(hits.surfaces == FLOOR, floor_pattern(room, points[0], points[2]), np.float32(1))
    return base.T[:, hits.surfaces] * strength


def floor_pattern(room: Room, x_m: Array, z_m: Array) -> Array:
    """Factor on the floor's colour at places of the floor."""
    if room.floor_pattern == "plain":
        return np.ones_like(x_m)
    across, along = x_m / np.float32(room.tile_m), z_m / np.float32(room.tile_m)
    if room.floor_pattern == "checkered":
        is_odd = (np.floor(across) + np.floor(along)) % 2 > 0
        return np.where(is_odd, np.float32(0.62), np.float32(1.0))
    is_joint = (across % 1 < 0.07) | (along % 1 < 0.10)
    return np.where(is_joint, np.float32(0.60), np.float32(1.0))


def _thing_colours(scene: Scene, thing: Thing, points: Array, rays: Array, lit: Array) -> Array:
    """Colour `(3, n)` of points `(3, n)` on one object."""
    ambient = scene.light.ambient
    light = np.array(scene.light.towards, dtype=np.float32)
    in_unit = to_unit(thing, points - thing_centre(thing)[:, None])
    normals = from_unit(thing, surface_normal(thing.shape, in_unit))
    direct = (light @ normals).clip(0) * lit
    base = np.array(OBJECT_COLOURS[thing.colour], np.float32)[:, None] * np.float32(thing.brightness)
    if thing.material == "striped":
        from_top = HALF_HEIGHT[thing.shape] - in_unit[1]
        is_light = (from_top * STRIPES / 2 + 0.2) % 1 > 0.6
        base = np.where(is_light, 0.35 * base + 0.62, base)
    colours = base * (ambient + (1 - ambient) * direct)
    if thing.material != "metal":
        return colours
    view = -rays / np.sqrt((rays * rays).sum(0))
    mirrored = 2 * (view * normals).sum(0) * normals - view  # where a mirror would look
    # what a metal surface mirrors: a dark floor, a bright ceiling, windows
    surroundings = 0.55 + 0.35 * np.tanh(4 * mirrored[1]) + 0.25 * np.sin(6 * mirrored[0])
    gleam = (light @ mirrored).clip(0) ** SHININESS * lit
    return colours * (0.5 + 0.8 * surroundings + 0.15 * in_unit[1]) + 0.75 * gleam
