"""What the rays of a picture meet first: depth, object and side of the room at every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpd.world.scenes import Camera, Room, Scene, Thing
from vpd.world.shapes import (
    BOUND,
    Array,
    camera_axes,
    camera_origin,
    camera_rays,
    hit_distance,
    thing_centre,
    to_unit,
)
from vpd.world.vocabulary import CLASSES

FLOOR, CEILING, LEFT_WALL, RIGHT_WALL, BACK_WALL, FRONT_WALL = range(6)
BEHIND_M = 3.0
"""Distance of the wall at the camera's back."""


@dataclass(frozen=True)
class Hits:
    """What the rays of a picture meet first."""

    rays: Array
    """`(3, H, W)`, forward component one."""
    depth_m: Array
    """`(H, W)` depth along the camera's axis, metres."""
    instances: NDArray[np.uint8]
    """`(H, W)`: 0 the room, i + 1 object i of the scene."""
    surfaces: NDArray[np.uint8]
    """`(H, W)`: side of the room behind each pixel, 0 floor, 1 ceiling, 2 to 5 the walls."""


def cast(scene: Scene, height_px: int, width_px: int) -> Hits:
    """Send a ray through the centre of every pixel."""
    rays = camera_rays(scene.camera, height_px, width_px)
    origin = camera_origin(scene.camera)
    depth, surfaces = _hit_room(scene.room, origin, rays)
    instances = np.zeros((height_px, width_px), dtype=np.uint8)
    for index, thing in enumerate(scene.things):
        window = _window(scene.camera, thing, height_px, width_px)
        start = to_unit(thing, origin - thing_centre(thing))[:, None, None]
        distance = hit_distance(thing.shape, start, to_unit(thing, rays[:, window[0], window[1]]))
        is_nearer = distance < depth[window]
        depth[window] = np.where(is_nearer, distance, depth[window])
        instances[window] = np.where(is_nearer, np.uint8(index + 1), instances[window])
    return Hits(rays, depth, instances, surfaces)


def class_labels(scene: Scene, hits: Hits) -> NDArray[np.uint8]:
    """Semantic class of every pixel."""
    wall = CLASSES.index("wall")
    of_surface = np.array([CLASSES.index("floor"), CLASSES.index("ceiling")] + [wall] * 4, dtype=np.uint8)
    of_thing = np.array([0, *(CLASSES.index(thing.shape) for thing in scene.things)], dtype=np.uint8)
    return np.where(hits.instances > 0, of_thing[hits.instances], of_surface[hits.surfaces])


def _hit_room(room: Room, origin: Array, rays: Array) -> tuple[Array, NDArray[np.uint8]]:
    """Depth and side of the box around the camera, for every ray."""
    half = room.width_m / 2
    sides = (
        (rays[0], -half - origin[0], half - origin[0], LEFT_WALL, RIGHT_WALL),
        (rays[1], -origin[1], room.height_m - origin[1], FLOOR, CEILING),
        (rays[2], -BEHIND_M - origin[2], room.depth_m - origin[2], FRONT_WALL, BACK_WALL),
    )
    depth = np.full(rays.shape[1:], np.inf, dtype=np.float32)
    surfaces = np.zeros(rays.shape[1:], dtype=np.uint8)
    with np.errstate(divide="ignore"):
        for along, low, high, low_side, high_side in sides:
            is_up = along > 0
            distance = np.where(is_up, np.float32(high), np.float32(low)) / along
            is_nearer = np.abs(distance) < depth
            depth = np.where(is_nearer, np.abs(distance), depth)
            side = np.where(is_up, np.uint8(high_side), np.uint8(low_side))
            surfaces = np.where(is_nearer, side, surfaces)
    return depth, surfaces


def _window(camera: Camera, thing: Thing, height_px: int, width_px: int) -> tuple[slice, slice]:
    """Rows and columns outside which an object cannot be seen."""
    across, up, forward = (float(v) for v in camera_axes(camera) @ (thing_centre(thing) - camera_origin(camera)))
    bound = BOUND[thing.shape] * thing.radius_m
    if forward <= bound:  # beside or behind the camera: no bound
        return slice(0, height_px), slice(0, width_px)
    focal_px = camera.focal * float(np.sqrt(height_px * width_px))
    return (
        _span(-up, bound, forward, focal_px, height_px),
        _span(across, bound, forward, focal_px, width_px),
    )


def _span(offset: float, bound: float, forward: float, focal_px: float, size_px: int) -> slice:
    """Pixels along one side that a ball at `offset` from the picture's middle may cover."""
    low, high = offset - bound, offset + bound
    first = low / (forward - bound if low < 0 else forward + bound)
    last = high / (forward - bound if high > 0 else forward + bound)
    start = int(np.floor(first * focal_px + size_px / 2)) - 1
    stop = int(np.ceil(last * focal_px + size_px / 2)) + 1
    return slice(min(max(start, 0), size_px), min(max(stop, 0), size_px))
