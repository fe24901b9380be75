"""From a scene to a picture with exact labels, instances and depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpd.world.ray_casting import cast, class_labels
from vpd.world.scenes import Scene
from vpd.world.shading import shade
from vpd.world.shapes import Array


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
    """Render a scene.

    Args:
        scene: What to render.
        size_px: Side of the picture, or its height and width, pixels.

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
