"""Rays, where they meet the shapes, and what those of a picture meet first: depth, object and side of the room.

Coordinates are arrays with the axis `x y z` first. Every shape is a unit shape about the origin; an object turns,
scales and moves it. Rays have a forward component of one in the camera's axes, so the distance along a ray *is* the
depth in metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpd.world.scenes import CLASSES, Camera, Room, Scene, Thing

Array = NDArray[np.float32]

CUBE_HALF = 0.72
CYLINDER_RADIUS, CYLINDER_HALF = 0.78, 0.92
HALF_HEIGHT = {"sphere": 1.0, "cube": CUBE_HALF, "cylinder": CYLINDER_HALF, "cone": 1.0}
"""From a unit shape's centre to the floor."""
BOUND = {
    "sphere": 1.0,
    "cube": CUBE_HALF * math.sqrt(3.0),
    "cylinder": math.hypot(CYLINDER_RADIUS, CYLINDER_HALF),
    "cone": math.sqrt(2.0),
}
"""Radius of a sphere around a unit shape."""

FLOOR, CEILING, LEFT_WALL, RIGHT_WALL, BACK_WALL, FRONT_WALL = range(6)
BEHIND_M = 3.0
"""Distance of the wall at the camera's back."""


def camera_axes(camera: Camera) -> Array:
    """Right, up and forward of a camera, one a row."""
    sin_yaw, cos_yaw = math.sin(camera.yaw_rad), math.cos(camera.yaw_rad)
    sin_pitch, cos_pitch = math.sin(camera.pitch_rad), math.cos(camera.pitch_rad)
    right = (cos_yaw, 0.0, -sin_yaw)
    up = (sin_yaw * sin_pitch, cos_pitch, cos_yaw * sin_pitch)
    forward = (sin_yaw * cos_pitch, -sin_pitch, cos_yaw * cos_pitch)
    return np.array([right, up, forward], dtype=np.float32)


def camera_origin(camera: Camera) -> Array:
    """Where a camera stands."""
    return np.array([camera.x_m, camera.height_m, 0.0], dtype=np.float32)


def camera_rays(camera: Camera, height_px: int, width_px: int) -> Array:
    """Directions `(3, H, W)` through the centres of the pixels, forward component one."""
    focal_px = camera.focal * math.sqrt(height_px * width_px)
    across = (np.arange(width_px, dtype=np.float32) + 0.5 - width_px / 2) / focal_px
    upwards = (height_px / 2 - 0.5 - np.arange(height_px, dtype=np.float32)) / focal_px
    right, up, forward = camera_axes(camera)[:, :, None, None]
    return (forward + right * across[None, None, :] + up * upwards[None, :, None]).astype(np.float32)


def thing_centre(thing: Thing) -> Array:
    """Centre of an object."""
    height = thing.radius_m * HALF_HEIGHT[thing.shape]
    return np.array([thing.x_m, height, thing.z_m], dtype=np.float32)


def to_unit(thing: Thing, vectors: Array) -> Array:
    """Turn and scale `(3, ...)` vectors from the room's axes to those of an object's unit shape."""
    sin, cos = math.sin(thing.yaw_rad) / thing.radius_m, math.cos(thing.yaw_rad) / thing.radius_m
    x, y, z = vectors
    return np.stack([cos * x - sin * z, y / np.float32(thing.radius_m), sin * x + cos * z])


def from_unit(thing: Thing, normals: Array) -> Array:
    """Turn `(3, ...)` unit vectors back to the room's axes."""
    sin, cos = math.sin(thing.yaw_rad), math.cos(thing.yaw_rad)
    x, y, z = normals
    return np.stack([cos * x + sin * z, y, cos * z - sin * x])


def hit_distance(shape: str, origin: Array, rays: Array) -> Array:
    """Distance along rays `(3, ...)` to the unit shape from an origin outside it, `(3, ...)`; infinity = missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape == "cone":
            return _hit_cone(origin, rays)
        if shape == "sphere":
            near, far = _quadratic((rays * rays).sum(0), (origin * rays).sum(0), (origin * origin).sum(0) - 1)
        elif shape == "cylinder":
            near, far = _slab(origin[1], rays[1], CYLINDER_HALF)
            side_near, side_far = _quadratic(
                rays[0] ** 2 + rays[2] ** 2,
                origin[0] * rays[0] + origin[2] * rays[2],
                origin[0] ** 2 + origin[2] ** 2 - np.float32(CYLINDER_RADIUS**2),
            )
            near, far = np.maximum(near, side_near), np.minimum(far, side_far)
        else:
            near, far = _slab(origin, rays, CUBE_HALF)
            near, far = near.max(0), far.min(0)
        return np.where((near <= far) & (near > 0), near, np.float32(np.inf))


def surface_normal(shape: str, points: Array) -> Array:
    """Unit normals `(3, n)` at points `(3, n)` on a unit shape."""
    x, y, z = points
    normals = np.zeros_like(points)
    if shape == "sphere":
        return points / np.maximum(np.sqrt((points * points).sum(0)), 1e-6)
    if shape == "cube":
        axis = np.abs(points).argmax(0)
        columns = np.arange(points.shape[1])
        normals[axis, columns] = np.sign(points[axis, columns])
        return normals
    radius = np.maximum(np.hypot(x, z), 1e-6)
    if shape == "cone":  # radius (1 - y) / 2: the slope of the side is 1 to 2
        flat, rise = 2 / math.sqrt(5.0), 1 / math.sqrt(5.0)
        return np.stack([flat * x / radius, np.full_like(y, rise), flat * z / radius])
    is_top = CYLINDER_HALF - y < CYLINDER_RADIUS - radius
    return np.where(is_top, np.array([[0.0], [1.0], [0.0]], np.float32), np.stack([x / radius, 0 * y, z / radius]))


def _quadratic(a: Array, half_b: Array, c: Array) -> tuple[Array, Array]:
    """Both roots, the smaller first where `a > 0`; nan where there is none."""
    root = np.sqrt(half_b * half_b - a * c)
    return (-half_b - root) / a, (-half_b + root) / a


def _slab(origin: Array, rays: Array, half: float) -> tuple[Array, Array]:
    """Where rays enter and leave the space between two planes."""
    one, other = (-half - origin) / rays, (half - origin) / rays
    return np.minimum(one, other), np.maximum(one, other)


def _hit_cone(origin: Array, rays: Array) -> Array:
    """The cone's side, `x² + z² = ((1 - y) / 2)²` for -1 <= y <= 1; its base stands on the floor, unseen."""
    below = 1 - origin[1]
    roots = _quadratic(
        rays[0] ** 2 + rays[2] ** 2 - rays[1] ** 2 / 4,
        origin[0] * rays[0] + origin[2] * rays[2] + below * rays[1] / 4,
        origin[0] ** 2 + origin[2] ** 2 - below**2 / 4,
    )
    inf = np.float32(np.inf)
    on_side = [np.where((t > 0) & (np.abs(origin[1] + t * rays[1]) <= 1), t, inf) for t in roots]
    return np.minimum(*on_side)


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
    return _span(-up, bound, forward, focal_px, height_px), _span(across, bound, forward, focal_px, width_px)


def _span(offset: float, bound: float, forward: float, focal_px: float, size_px: int) -> slice:
    """Pixels along one side that a ball at `offset` from the picture's middle may cover."""
    low, high = offset - bound, offset + bound
    first = low / (forward - bound if low < 0 else forward + bound)
    last = high / (forward - bound if high > 0 else forward + bound)
    start = int(np.floor(first * focal_px + size_px / 2)) - 1
    stop = int(np.ceil(last * focal_px + size_px / 2)) + 1
    return slice(min(max(start, 0), size_px), min(max(stop, 0), size_px))
