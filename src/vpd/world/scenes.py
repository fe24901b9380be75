"""Scenes of the procedural world: plain descriptions of a room, its objects, light and camera.

Axes: x right, y up, z into the room; metres. The floor is `y = 0` and the camera stands near `z = 0`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpd.world.vocabulary import SIZES_M


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

    @property
    def side(self) -> str:
        """Word for where it comes from."""
        return "left" if self.towards[0] < 0 else "right"


@dataclass(frozen=True)
class Scene:
    """All there is to render."""

    things: tuple[Thing, ...]
    room: Room = Room()
    camera: Camera = Camera()
    light: Light = Light()
