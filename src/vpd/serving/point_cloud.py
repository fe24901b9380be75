"""Depth as coloured points in space, in a file that MeshLab, CloudCompare and Blender open."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.errors import UsageError

MOST_POINTS = 2_000_000
"""Of larger pictures every n-th row and column is taken."""


def point_cloud(
    depth_m: NDArray[np.floating],
    image: Image.Image,
    *,
    fov_deg: float,
    near_m: float = 0.0,
    far_m: float = math.inf,
) -> bytes:
    """A binary PLY file; x points right, y up, z towards the viewer, metres, the camera at the origin.

    Args:
        depth_m: `(H, W)`, distance along the optical axis, metres; 0 or not finite = unknown, left out.
        image: RGB of the same size, for the colours.
        fov_deg: Field of view from the left to the right border, degrees; pixels are square.
        near_m: Nearer points are left out.
        far_m: Farther points are left out.

    Raises:
        UsageError: If the field of view is not between 0 and 180 degrees.
    """
    if not 0 < fov_deg < 180:
        raise UsageError(f"fov_deg={fov_deg}: a field of view is between 0 and 180 degrees; phones have about 65.")
    height, width = depth_m.shape
    step = max(1, math.ceil(math.sqrt(height * width / MOST_POINTS)))
    rows, columns = np.mgrid[0:height:step, 0:width:step]
    depth = depth_m[::step, ::step].astype(np.float32)
    is_known = np.isfinite(depth) & (depth > 0) & (depth >= near_m) & (depth <= far_m)
    focal_px = width / 2 / math.tan(math.radians(fov_deg) / 2)
    points = np.empty(int(is_known.sum()), [("place", "<f4", 3), ("colour", "u1", 3)])
    points["place"] = np.stack(
        [
            (columns + 0.5 - width / 2) * depth / focal_px,
            -(rows + 0.5 - height / 2) * depth / focal_px,
            -depth,
        ],
        axis=-1,
    )[is_known]
    points["colour"] = np.asarray(image.convert("RGB"))[::step, ::step][is_known]
    head = ["ply", "format binary_little_endian 1.0", "comment metres; the camera is at the origin and looks along -z"]
    head += [f"element vertex {len(points)}", *(f"property float {axis}" for axis in "xyz")]
    head += [*(f"property uchar {colour}" for colour in ("red", "green", "blue")), "end_header", ""]
    return "\n".join(head).encode() + points.tobytes()
