"""Words and colours of the world: what can be seen, and what it is called."""

from __future__ import annotations

SHAPES = ("sphere", "cube", "cylinder", "cone")
"""Object shapes, in the order of their class labels."""

CLASSES = ("floor", "wall", "ceiling", *SHAPES)
"""Semantic classes; a pixel's label is its class's position here."""

MATERIALS = ("matte", "metal", "striped")
"""How an object's surface looks."""

FLOOR_PATTERNS = ("plain", "checkered", "tiled")
"""How the floor is laid."""

SIZES_M = {"small": 0.44, "large": 0.74}
"""Size word -> radius of a sphere of that size, metres."""

OBJECT_COLOURS = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.96, 0.52, 0.06),
    "yellow": (0.94, 0.86, 0.12),
    "green": (0.12, 0.66, 0.16),
    "cyan": (0.10, 0.80, 0.82),
    "blue": (0.12, 0.28, 0.90),
    "purple": (0.50, 0.14, 0.82),
    "pink": (0.96, 0.30, 0.68),
}
"""Colours of objects, RGB in [0, 1]; eight well separated hues."""

SURFACE_COLOURS = {
    "white": (0.90, 0.90, 0.88),
    "gray": (0.58, 0.58, 0.60),
    "beige": (0.85, 0.76, 0.60),
    "brown": (0.52, 0.37, 0.25),
    "light blue": (0.66, 0.77, 0.90),
    "light green": (0.68, 0.83, 0.66),
    "light pink": (0.90, 0.73, 0.74),
}
"""Colours of floor and walls, RGB in [0, 1]; paler than any object."""
