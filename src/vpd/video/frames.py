"""A clip as its frames, one after the other, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from PIL import Image

from vpd.errors import UsageError

MOST_FRAMES = 1_000_000
"""Frames that are taken of a clip where nobody says how many: nine hours of 30 a second."""
DEFAULT_FPS = 25.0
"""Frames a second of pictures, which do not say."""
LONGEST_GAP_S = 600.0
"""A longer wait from one frame to the next is a mistake of the file."""


@dataclass(frozen=True)
class Frame:
    """A frame of a clip."""

    number: int
    """Its place in the clip, from 0; frames that cannot be read count too."""
    time_s: float
    """Seconds since the clip began, never less than that of the frame before."""
    name: str
    """What messages call it."""
    read: Callable[[], Image.Image]
    """Its picture, RGB, upright; may be called by any thread, and raises `UsageError` where the frame is broken."""

    @property
    def source(self) -> str:
        """What a prediction run calls it."""
        return self.name


class Clip(Protocol):
    """Something that has frames; it is closed when the `with` block ends."""

    name: str
    """What messages call it."""
    fps: float
    """Frames a second, about."""
    about_frames: int | None
    """How many there are, as far as it is known before they are read."""
    is_live: bool
    """Whether frames come by the clock, whoever waits for them or not, and cannot be had again."""
    pixel_aspect: Fraction
    """Width of a pixel of an upright frame over its height."""
    note: str
    """What is to be said of the whole, once the frames are used up; empty = nothing."""

    def frames(self) -> Iterator[Frame]:
        """All frames in their order, once."""

    def glimpses(self, number: int) -> Iterator[Image.Image]:
        """Some pictures from all over the clip, before the frames are asked for; none where that cannot be."""

    def __enter__(self) -> Clip: ...

    def __exit__(self, *error: object) -> None: ...


class Clock:
    """Times of frames as a clip tells them, made to begin at 0 and never to go back.

    Args:
        fps: Frames a second, for frames without a time and after leaps of it.
    """

    def __init__(self, fps: float) -> None:
        self._step_s = 1 / fps
        self._shift_s: float | None = None
        self._last_s = -self._step_s

    def at(self, told_s: float | None) -> float:
        """Time of the next frame, seconds, of what the clip says of it."""
        expected = self._last_s + self._step_s
        if told_s is None:
            time_s = expected
        else:
            if self._shift_s is None:
                self._shift_s = -told_s
            time_s = told_s + self._shift_s
            if not self._last_s < time_s <= self._last_s + LONGEST_GAP_S:
                self._shift_s, time_s = expected - told_s, expected
        self._last_s = time_s
        return time_s


def broken(number: int, time_s: float, name: str, reason: str) -> Frame:
    """A frame that is there and cannot be read."""
    frame_name = f"{name}, frame {number} at {time_s:.2f} s"

    def read() -> Image.Image:
        raise UsageError(f"{frame_name}: {reason}")

    return Frame(number, time_s, frame_name, read)


def whole(number: int, time_s: float, name: str, read: Callable[[], Image.Image]) -> Frame:
    """A frame that is read as the function does."""
    return Frame(number, time_s, f"{name}, frame {number} at {time_s:.2f} s", read)


def sane_fps(told: Any) -> float:
    """Frames a second that a file tells, or `DEFAULT_FPS` where that is none."""
    try:
        fps = float(told)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return DEFAULT_FPS
    return fps if 0.01 <= fps <= 1000 else DEFAULT_FPS
