"""A camera whose frames come by the clock, and what tells how old they are when the network sees them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from vpd.video.frames import Frame, whole

_FRAME_S, _NETWORK_S = 0.002, 0.03


class LiveCamera(SimpleNamespace):
    """Many frames come while the network works once; the red of each tells its number, modulo 256."""

    def __init__(self) -> None:
        super().__init__(
            name="webcam", fps=500.0, about_frames=None, is_live=True, pixel_aspect=Fraction(1), note="", ages=[]
        )
        self._runs_before: dict[int, int] = {}
        self._runs = 0

    def frames(self) -> Iterator[Frame]:
        for number in itertools.count():
            time.sleep(_FRAME_S)
            self._runs_before[number % 256] = self._runs
            yield whole(number, number / self.fps, "webcam", lambda number=number: _picture(number))  # type: ignore[misc]

    def watching(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """The same `predict`, slower; notes in `ages` how often it ran between a frame's coming and its turn."""

        def slow(images: Any, *words: Any, **options: Any) -> Any:
            for image in images:
                picture = getattr(image, "image", image)
                self.ages.append(self._runs - self._runs_before[picture.getpixel((0, 0))[0]])
            self._runs += bool(images)
            time.sleep(_NETWORK_S if images else 0)
            return predict(images, *words, **options)

        return slow

    def plug_in(self, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
        """What these modules open is this camera."""
        for module in modules:
            monkeypatch.setattr(module, "open_clip", lambda source, **_: nullcontext(self))


def _picture(number: int) -> Image.Image:
    return Image.new("RGB", (40, 32), (number % 256, 99, 99))
