"""`model.stream`: the predictions of `predict`, frame by frame, without more frames in memory than were promised."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from live_camera import LiveCamera
from vpd.config import Resize
from vpd.errors import UsageError
from vpd.inference.outputs import OutputError
from vpd.tasks import streaming


@pytest.fixture(scope="module")
def model(tiny_diffusion: Path) -> vpd.SegmentationModel:
    return vpd.SegmentationModel.from_diffusion(
        tiny_diffusion, classes=["sky", "tree", "car"], head_channels=8, fit=Resize(size_px=32)
    )


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 40, 3), np.uint8))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_stream_predicts_what_predict_does(model: vpd.SegmentationModel, batch_size: int):
    frames = pictures(5)
    streamed = list(model.stream(frames, batch_size=batch_size, fps=10))
    assert [prediction.frame for prediction in streamed] == [0, 1, 2, 3, 4]
    assert [prediction.time_s for prediction in streamed] == [0, 0.1, 0.2, 0.3, 0.4]
    for one, other in zip(streamed, model.predict(frames, batch_size=batch_size), strict=True):
        torch.testing.assert_close(one.labels, other.labels)


def test_an_endless_stream_is_read_no_further_than_needed(model: vpd.SegmentationModel):
    made: list[weakref.ref[Image.Image]] = []

    def endless() -> Iterator[Image.Image]:
        while True:
            image = Image.fromarray(pictures(1)[0])
            made.append(weakref.ref(image))
            yield image
            del image

    stream = model.stream(endless())
    for _ in range(60):
        next(stream)
    gc.collect()
    assert len(made) < 60 + 40
    assert sum(image() is not None for image in made) < 40
    stream.close()
    assert [each.frame for each in model.stream(endless(), frames=7)] == list(range(7))


def test_of_a_camera_the_frame_that_came_last_is_predicted(
    model: vpd.SegmentationModel, monkeypatch: pytest.MonkeyPatch
):
    camera = LiveCamera()
    camera.plug_in(monkeypatch, streaming)
    monkeypatch.setattr(model, "predict", camera.watching(model.predict), raising=False)
    numbers = [prediction.frame for prediction in model.stream("webcam", frames=25)]
    assert numbers == sorted(set(numbers)) and numbers[-1] > 50
    assert max(camera.ages) <= 1  # no frame waits while others are predicted


def test_frames_that_cannot_be_read_are_named_and_left_out(
    model: vpd.SegmentationModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for number, image in enumerate(pictures(4)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "vpd"):
        assert [each.frame for each in model.stream(tmp_path / "%d.png")] == [0, 1, 3]
    assert "2.png" in caplog.text


def test_a_frame_whose_outputs_are_no_numbers_is_left_out(
    model: vpd.SegmentationModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    predict, frames = model.predict, pictures(4)

    def failing(images: list, **options: object) -> list:
        if any(np.array_equal(np.asarray(image.image), frames[1]) for image in images):
            raise OutputError("frame 1: no numbers", reason="no numbers")
        return predict(images, **options)

    monkeypatch.setattr(model, "predict", failing, raising=False)
    with caplog.at_level(logging.WARNING, "vpd"):
        assert [each.frame for each in model.stream(frames, batch_size=2)] == [0, 2, 3]
    assert "no numbers" in caplog.text


def test_wrong_words_are_refused_before_a_frame_is_read(model: vpd.SegmentationModel):
    for wrong in ({"scene": "kitchen"}, {"size": 0}, {"frames": 0}, {"batch_size": 0}, {"smooth": 0}):
        with pytest.raises(UsageError):
            model.stream("nothing.mp4", **wrong)
    with pytest.raises(UsageError, match="fps"):
        next(model.stream(pictures(1), fps=0))
