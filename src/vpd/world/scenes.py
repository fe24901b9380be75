"""Scenes of the procedural world: plain descriptions of a room, its objects, light and camera, and the words for them.

Axes: x right, y up, z into the room; metres. The floor is `y = 0` and the camera stands near `z = 0`.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Thing:
    """One object, standing on the floor."""

    shape: str
    colour: str
    material: str
    size: str
    x_m: float
    z_m: float
    yaw_rad: float = 0.0
    """Turn about the vertical."""
    brightness: float = 1.0
    """Factor on the colour, so that two red cubes are not quite the same."""

    @property
    def radius_m(self) -> float:
        """Scale of the unit shape, metres."""
        return SIZES_M[self.size]


@dataclass(frozen=True)
class Room:
    """A box with a coloured floor and walls; the ceiling is white."""

    width_m: float = 7.0
    depth_m: float = 8.0
    height_m: float = 3.4
    floor_colour: str = "gray"
    floor_pattern: str = "plain"
    tile_m: float = 0.9
    """Side of a square of the floor's pattern."""
    wall_colour: str = "beige"


@dataclass(frozen=True)
class Camera:
    """Where the picture is taken from."""

    x_m: float = 0.0
    height_m: float = 1.6
    yaw_rad: float = 0.0
    """Positive looks to the right."""
    pitch_rad: float = 0.26
    """Positive looks down."""
    focal: float = 1.05
    """Focal length over the square root of the picture's area: the same view area at any aspect ratio."""


@dataclass(frozen=True)
class Light:
    """A directional light."""

    towards: tuple[float, float, float] = (-0.5, 0.8, -0.33)
    """Unit vector from a surface to the light."""
    ambient: float = 0.45
    """Share of the light that reaches every surface."""


@dataclass(frozen=True)
class Scene:
    """All there is to render."""

    things: tuple[Thing, ...]
    room: Room = Room()
    camera: Camera = Camera()
    light: Light = Light()
