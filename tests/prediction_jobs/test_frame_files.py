"""Pictures of a clip have one size and one key, whatever its frames are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vpd.prediction_jobs.frame_files import MOST_SIDE_PX, Painter
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction


def labelled(width: int, height: int, label: int, classes: int = 3) -> SegmentationPrediction:
    labels = torch.full((height, width), label, dtype=torch.uint8)
    return SegmentationPrediction(
        labels, tuple(f"class {n}" for n in range(classes)), Image.new("RGB", (width, height))
    )


def test_later_pictures_have_the_size_and_key_of_the_first():
    painter = Painter("overlay")
    first, other, larger = (painter.paint(labelled(*each)) for each in ((300, 200, 0), (300, 200, 2), (640, 480, 1)))
    assert first.size == other.size == larger.size == painter.size
    key = np.asarray(first)[-10:]
    assert np.array_equal(key, np.asarray(other)[-10:]) and np.array_equal(key, np.asarray(larger)[-10:])
    again = Painter("overlay", size=painter.size, key=painter.key)  # as a run that goes on has it
    assert np.array_equal(again.paint(labelled(300, 200, 2)), other)


def test_of_many_classes_those_that_were_seen_are_in_the_key():
    narrow, wide = (Painter("overlay", [labelled(300, 200, 7, 100)] * others) for others in (0, 1))
    for painter in (narrow, wide):
        painter.paint(labelled(300, 200, 3, 100))
    assert narrow.key is not None and wide.key is not None
    assert not np.array_equal(np.asarray(narrow.key), np.asarray(wide.key.crop((0, 0, *narrow.key.size))))


def test_side_by_side_is_twice_as_wide():
    depth = DepthPrediction(torch.ones(200, 300), 10.0, None, Image.new("RGB", (300, 200), "red"), shown_m=(0.0, 5.0))
    side, overlay = Painter("side").paint(depth), Painter("overlay").paint(depth)
    assert side.width == 600 and overlay.width == 300
    assert side.getpixel((10, 10)) == (255, 0, 0) and side.getpixel((310, 10)) == overlay.getpixel((10, 10))


def test_depth_of_one_scale_has_the_same_colour_in_every_frame():
    painter, image = Painter("overlay"), Image.new("RGB", (300, 200))
    frames = [torch.full((200, 300), 2.0), torch.linspace(1, 9, 300).expand(200, 300)]
    near = [painter.paint(DepthPrediction(frame, 10.0, None, image, shown_m=(0.0, 10.0))) for frame in frames]
    column = int((2.0 - 1) / 8 * 299)
    assert np.abs(np.subtract(near[0].getpixel((0, 0)), near[1].getpixel((column, 0)))).max() <= 3


def test_huge_frames_are_shown_smaller():
    mask = torch.zeros(100, 9000, dtype=torch.bool)
    picture = Painter("overlay").paint(MaskPrediction(mask, mask.float(), "a dog", Image.new("RGB", (9000, 100))))
    assert max(picture.size) <= MOST_SIDE_PX


@pytest.mark.parametrize("view", ["overlay", "side"])
def test_a_task_of_ones_own_shows_its_overlay(view: str):
    class Own:
        image = Image.new("RGB", (50, 40))

        def overlay(self) -> Image.Image:
            return Image.new("RGB", (50, 40), "blue")

    assert Painter(view).paint(Own()).getpixel((Painter(view).paint(Own()).width - 1, 5)) == (0, 0, 255)
