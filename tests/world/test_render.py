"""Known answers of the renderer: depth, ownership, shadows."""

import math

import numpy as np
import pytest

from vpd.world.ray_casting import (
    BOUND,
    CUBE_HALF,
    CYLINDER_RADIUS,
    HALF_HEIGHT,
    camera_rays,
    cast,
    class_labels,
    hit_distance,
)
from vpd.world.render import floor_pattern, light_share, render
from vpd.world.sample_scene import sample_scene
from vpd.world.scenes import CLASSES, SHAPES, Camera, Light, Room, Scene, Thing

RADIUS_M = 0.74
LEVEL = Camera(height_m=RADIUS_M, pitch_rad=0.0, focal=1.0)
SIZE_PX = 65
MIDDLE = SIZE_PX // 2


def thing(shape="sphere", x_m=0.0, z_m=4.0, **kwargs):
    return Thing(shape=shape, colour="red", material="matte", size="large", x_m=x_m, z_m=z_m, **kwargs)


def test_depth_of_a_sphere_is_the_analytic_one():
    scene = Scene((thing(x_m=0.3),), camera=Camera(height_m=1.5, pitch_rad=0.2, yaw_rad=0.1))
    hits = cast(scene, 48, 64)
    rows, columns = np.nonzero(hits.instances == 1)
    assert rows.size > 100
    rays = camera_rays(scene.camera, 48, 64)[:, rows, columns].astype(np.float64)
    away = np.array([0.3, RADIUS_M, 4.0]) - np.array([0.0, 1.5, 0.0])
    # |t ray - away|^2 = r^2, in float64
    a, b, c = (rays**2).sum(0), away @ rays, away @ away - RADIUS_M**2
    expected = (b - np.sqrt(b**2 - a * c)) / a
    np.testing.assert_allclose(hits.depth_m[rows, columns], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("shape", "to_front"),
    [("sphere", 1.0), ("cube", CUBE_HALF), ("cylinder", CYLINDER_RADIUS), ("cone", 0.5)],
)
def test_depth_straight_ahead(shape, to_front):
    camera = Camera(height_m=RADIUS_M * HALF_HEIGHT[shape], pitch_rad=0.0, focal=1.0)  # level with the middle
    rendering = render(Scene((thing(shape),), camera=camera), SIZE_PX)
    assert rendering.depth_m[MIDDLE, MIDDLE] == pytest.approx(4.0 - to_front * RADIUS_M, abs=1e-4)


def test_depth_of_floor_and_wall_is_along_the_axis():
    room = Room(depth_m=8.0)
    rendering = render(Scene((), room, LEVEL), SIZE_PX)
    assert rendering.depth_m[MIDDLE, MIDDLE] == pytest.approx(8.0)
    assert rendering.depth_m[MIDDLE, MIDDLE + 20] == pytest.approx(8.0)  # the wall is flat: z-depth, not distance
    below = 30  # pixels under the horizon; similar triangles
    assert rendering.depth_m[MIDDLE + below, MIDDLE] == pytest.approx(RADIUS_M * SIZE_PX / below, rel=1e-5)


def test_nearer_object_owns_the_pixel():
    near, far = thing("sphere", z_m=3.0), thing("cube", z_m=6.0)
    for things in [(near, far), (far, near)]:
        rendering = render(Scene(things, camera=LEVEL), SIZE_PX)
        owner = rendering.instances[MIDDLE, MIDDLE] - 1
        assert things[owner] is near
        assert CLASSES[rendering.labels[MIDDLE, MIDDLE]] == "sphere"


@pytest.mark.parametrize("index", range(6))
def test_label_is_the_class_of_the_owner(index):
    scene = sample_scene(3, index)
    rendering = render(scene, (40, 56))
    for place, owner in enumerate(scene.things):
        assert {CLASSES[label] for label in rendering.labels[rendering.instances == place + 1]} == {owner.shape}
    room = {CLASSES[label] for label in rendering.labels[rendering.instances == 0]}
    assert room <= {"floor", "wall", "ceiling"}
    assert rendering.instances.max() <= len(scene.things)


def test_floor_wall_and_ceiling_are_where_they_must_be():
    scene = Scene((), Room(width_m=6, depth_m=8, height_m=3), Camera(height_m=1.5, pitch_rad=0.0, focal=0.6))
    labels = class_labels(scene, cast(scene, SIZE_PX, SIZE_PX))
    assert CLASSES[labels[0, MIDDLE]] == "ceiling"
    assert CLASSES[labels[-1, MIDDLE]] == "floor"
    assert {CLASSES[label] for label in labels[MIDDLE]} == {"wall"}


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_cut_nothing_off(shape):
    """Objects are looked for only in a part of the picture: the same as asking every ray."""
    for x_m, z_m in [(0.0, 2.0), (-1.2, 2.6), (1.5, 5.0), (0.4, 1.0)]:
        scene = Scene((thing(shape, x_m, z_m, yaw_rad=0.6),), camera=Camera(yaw_rad=0.1, pitch_rad=0.3))
        rays = camera_rays(scene.camera, 60, 44).astype(np.float64)
        sin, cos = math.sin(0.6) / RADIUS_M, math.cos(0.6) / RADIUS_M
        turn = np.array([[cos, 0, -sin], [0, 1 / RADIUS_M, 0], [sin, 0, cos]])
        start = turn @ (np.array([0, 1.6, 0]) - np.array([x_m, RADIUS_M * HALF_HEIGHT[shape], z_m]))
        if np.linalg.norm(start) < BOUND[shape]:
            continue
        expected = np.isfinite(hit_distance(shape, start[:, None, None], np.einsum("ij,jhw->ihw", turn, rays)))
        assert ((cast(scene, 60, 44).instances == 1) != expected).sum() <= 2  # rounding at the rim


def test_shadow_falls_away_from_the_light():
    light = Light(towards=(-0.6, 0.8, 0.0))
    scene = Scene((thing(),), light=light)
    reach = RADIUS_M / 0.8
    shaded = [0.6 * reach, 0.0, 4.0]  # on the floor, in line with the light and the sphere's centre
    opposite = [-0.6 * reach - RADIUS_M, 0.0, 4.0]
    points = np.array([shaded, opposite], np.float32).T[:, None]
    assert light_share(scene, points, np.zeros((1, 2), np.uint8)).tolist() == [[0.0, 1.0]]


def test_lit_side_is_brighter():
    image = render(Scene((thing(),), camera=LEVEL, light=Light(towards=(-0.6, 0.5, -0.62))), SIZE_PX).image
    left, right = image[MIDDLE, MIDDLE - 8, 0], image[MIDDLE, MIDDLE + 8, 0]
    assert int(left) > int(right) + 20


def test_floor_patterns_by_hand():
    x_m, z_m = np.array([0.5, 1.5, 0.01], np.float32), np.array([0.5, 0.5, 0.5], np.float32)
    assert np.allclose(floor_pattern(Room(floor_pattern="plain"), x_m, z_m), 1)
    checkered = floor_pattern(Room(floor_pattern="checkered", tile_m=1.0), x_m, z_m)
    assert checkered[0] != checkered[1]
    assert checkered[0] == checkered[2]
    tiled = floor_pattern(Room(floor_pattern="tiled", tile_m=1.0), x_m, z_m)
    assert tiled[0] == tiled[1] > tiled[2]


def test_edges_are_smooth():
    """Four samples a pixel: some pixels at a red sphere's rim before a pale wall lie between the two colours."""
    image = render(Scene((thing(),), camera=LEVEL), SIZE_PX).image.astype(int)
    green = image[MIDDLE, :, 1]
    rim = np.nonzero(np.abs(np.diff(green)) > 8)[0]
    assert len(rim) > 2  # a hard edge would make exactly one step a side


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (200, 7)])
def test_any_size(size):
    rendering = render(sample_scene(0, 0), size)
    assert rendering.image.shape == (*size, 3)
    assert rendering.image.dtype == np.uint8
    assert rendering.labels.shape == rendering.instances.shape == rendering.depth_m.shape == size


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="0x5"):
        render(sample_scene(0, 0), (0, 5))


def test_same_picture_twice_and_at_two_sizes_the_same_place():
    scene = sample_scene(1, 2)
    first, second = render(scene, 64), render(sample_scene(1, 2), 64)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.depth_m, second.depth_m)
    finer = render(scene, 192)
    assert (finer.labels[1::3, 1::3] == first.labels).mean() > 0.999  # the same rays
