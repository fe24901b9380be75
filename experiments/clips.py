"""Clips of the world with exact truth: how it looks, what is where, and which pixel each was in the picture before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vpd.world.ray_casting import camera_axes, camera_origin, camera_rays, from_unit, thing_centre, to_unit
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import sample_scene
from vpd.world.scenes import Camera, Scene, Thing

Motion = Literal["camera", "forward", "objects", "both"]
_PERIOD = 48  # frames of a swing of the camera or of an object
_STEP_M = 0.5  # that the camera goes on and back: at most 1.6 m/s at 25 frames a second
_SAME_M = 0.05  # a point is seen if what is seen there lies no further off, as a share of its depth


@dataclass(frozen=True)
class TrueFrame:
    """A frame of a clip."""

    rendering: Rendering
    """Picture, labels and depth."""
    before: NDArray[np.int64]
    """`(2, H, W)` row and column that the point of each pixel had in the frame before; -1 = it was not seen."""


def clip(seed: int, index: int, *, motion: Motion, frames: int, size_px: int = 128) -> Iterator[TrueFrame]:
    """Frames of a scene in motion.

    Args:
        seed: Of the scene and its motion.
        index: Of the scene.
        motion: What moves: the camera sways and turns, or goes on and back; objects slide and turn; or both.
        frames: How many.
        size_px: Side of the pictures.
    """
    still = sample_scene(seed, index)
    rng = np.random.default_rng((seed, index, 7))
    phases = rng.uniform(0, 2 * math.pi, len(still.things) + 1)
    ways = rng.uniform(0.15, 0.35, (len(still.things), 2)) * rng.choice((-1, 1), (len(still.things), 2))
    last: Rendering | None = None
    for number in range(frames):
        scene = _moved(still, number, phases, ways, motion)
        rendering = render(scene, size_px)
        yield TrueFrame(rendering, _places_before(rendering, last or rendering))
        last = rendering


def _moved(still: Scene, number: int, phases: NDArray[np.float64], ways: NDArray[np.float64], motion: Motion) -> Scene:
    """The scene at a frame."""
    swings = np.sin(2 * math.pi * number / _PERIOD + phases)
    camera, things = still.camera, still.things
    if motion in ("camera", "both"):
        camera = replace(
            camera,
            x_m=camera.x_m + 0.25 * float(swings[0]),
            yaw_rad=camera.yaw_rad + 0.10 * float(swings[0]),
            pitch_rad=camera.pitch_rad + 0.02 * float(np.sin(2 * math.pi * number / 17)),
        )
    room = still.room
    if motion == "forward":  # the camera stands at z = 0: all else comes nearer; a pattern of the floor would not
        ahead_m = _STEP_M * float(swings[0])
        things = tuple(replace(thing, z_m=thing.z_m - ahead_m) for thing in things)
        room = replace(room, depth_m=room.depth_m - ahead_m, floor_pattern="plain")
    if motion in ("objects", "both"):
        things = tuple(
            replace(
                thing,
                x_m=thing.x_m + float(way[0] * swing),
                z_m=thing.z_m + float(way[1] * swing),
                yaw_rad=thing.yaw_rad + 0.4 * float(swing),
            )
            for thing, way, swing in zip(things, ways, swings[1:], strict=True)
        )
    return replace(still, camera=camera, things=things, room=room)


def _places_before(now: Rendering, before: Rendering) -> NDArray[np.int64]:
    """Where the point of each pixel was seen in another picture of the scene, `(2, H, W)` row and column, or -1."""
    height, width = now.depth_m.shape
    rays = camera_rays(now.scene.camera, height, width)
    points = camera_origin(now.scene.camera)[:, None, None] + rays * now.depth_m
    shift_m = np.float32(before.scene.room.depth_m - now.scene.room.depth_m)  # where the camera went on
    points[2] += shift_m * (now.instances == 0)
    for index, (thing, earlier) in enumerate(zip(now.scene.things, before.scene.things, strict=True)):
        rows, columns = np.nonzero(now.instances == index + 1)
        points[:, rows, columns] = _carried(points[:, rows, columns], thing, earlier)
    row, column, depth_m = _project(points, before.scene.camera, height, width)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (depth_m > 0)
    row, column = row.clip(0, height - 1), column.clip(0, width - 1)
    is_same = (before.instances[row, column] == now.instances) & (before.labels[row, column] == now.labels)
    is_near = np.abs(before.depth_m[row, column] - depth_m) < _SAME_M * depth_m
    return np.where(inside & is_same & is_near, np.stack([row, column]), -1)


def _carried(points: NDArray[np.float32], thing: Thing, earlier: Thing) -> NDArray[np.float32]:
    """Points `(3, n)` of an object as it was earlier."""
    unit = to_unit(thing, points - thing_centre(thing)[:, None])
    return (from_unit(earlier, unit) * np.float32(earlier.radius_m) + thing_centre(earlier)[:, None]).astype(np.float32)


def _project(
    points: NDArray[np.float32], camera: Camera, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Row, column and depth of points `(3, H, W)` in a picture."""
    focal_px = camera.focal * math.sqrt(height * width)
    right, up, forward = np.tensordot(camera_axes(camera), points - camera_origin(camera)[:, None, None], axes=1)
    ahead = np.maximum(forward, 1e-6)
    column = np.floor(right / ahead * focal_px + width / 2).astype(np.int64)
    row = np.floor(height / 2 - up / ahead * focal_px).astype(np.int64)
    return row, column, forward.astype(np.float32)
