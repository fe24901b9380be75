"""Frames made ahead, and of what is live the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from PIL import Image

from vpd.errors import UsageError
from vpd.video.arriving import arriving
from vpd.video.frames import Frame, whole


def clip_of(frames: Iterator[Frame], *, is_live: bool) -> SimpleNamespace:
    return SimpleNamespace(frames=lambda: frames, is_live=is_live)


def numbered(count: int, *, after: float = 0.0, error: Exception | None = None) -> Iterator[Frame]:
    for number in range(count):
        time.sleep(after)
        yield whole(number, number / 25, "clip", lambda: Image.new("RGB", (1, 1)))
    if error is not None:
        raise error


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("vpd-live", "vpd-ahead"))]


def test_all_frames_of_a_file_come_in_order_and_an_error_in_its_place():
    frames = arriving(clip_of(numbered(20, error=UsageError("cut off")), is_live=False), most=100)
    for number in range(20):
        assert next(frames).number == number
    with pytest.raises(UsageError, match="cut off"):
        next(frames)
    assert [each.number for each in arriving(clip_of(numbered(20), is_live=False), most=7)] == list(range(7))
    assert names() == []


def test_of_a_live_stream_the_newest_frame_comes():
    frames = arriving(clip_of(numbered(60, after=0.01), is_live=True), most=100)
    seen = []
    for frame in frames:
        seen.append(frame.number)
        time.sleep(0.08)
    assert seen == sorted(set(seen)) and seen[-1] == 59
    assert len(seen) < 30  # those that came meanwhile were passed over
    assert names() == []


def test_an_error_of_a_live_stream_is_raised_and_closing_ends_its_thread():
    frames = arriving(clip_of(numbered(1, error=UsageError("broke off")), is_live=True), most=100)
    with pytest.raises(UsageError, match="broke off"):
        list(frames)
    endless = arriving(clip_of(numbered(10**9, after=0.001), is_live=True), most=100)
    next(endless)
    endless.close()
    assert names() == []
