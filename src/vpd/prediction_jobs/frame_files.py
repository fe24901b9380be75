"""Frames of a clip: read as they come, written as a data file, a line, and a picture for the video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

from PIL import Image

from vpd.config import Resize
from vpd.drawing.text import font_px_for, stack
from vpd.errors import UsageError
from vpd.files.images import Picture
from vpd.inference.plan import check_fitted_size
from vpd.inference.resize import Fitted
from vpd.prediction_jobs.items import Outcome, Read
from vpd.tasks.predictions import Prediction
from vpd.video.frames import Frame

View = Literal["overlay", "side"]
"""What a video shows: the prediction on the picture, or beside it."""
DIGITS = 6
"""Of the frame's number in the name of its data file, at least."""
MOST_SIDE_PX = 4096
"""Side of a video's pictures, at most: players and encoders take no larger ones."""


class FrameDone(NamedTuple):
    """What was written of a frame."""

    source: str
    """What the run calls it."""
    line: dict[str, Any]
    """What is said of it in `frames.jsonl`."""
    time_s: float
    """Seconds since the clip began."""
    picture: Image.Image
    """Its picture in the video."""


class Painter:
    """Draws the pictures of one clip, all of one size and above the same key; used by several threads.

    Args:
        view: What they show.
        others: Predictions for other frames, whose classes belong into the key too.
        size: Width and height, as an earlier run of the same clip had them; none = the first picture decides.
        key: The key, likewise.
    """

    def __init__(
        self,
        view: View,
        others: Sequence[Any] = (),
        *,
        size: tuple[int, int] | None = None,
        key: Image.Image | None = None,
    ) -> None:
        self._view, self._others, self._lock = view, others, Lock()
        self.size, self.key = size, key

    def paint(self, prediction: Any) -> Image.Image:
        """The picture of a frame in the video."""
        drawn: Image.Image = prediction.tinted() if hasattr(prediction, "tinted") else prediction.overlay()
        if self._view == "side":
            both = Image.new("RGB", (2 * drawn.width, drawn.height))
            both.paste(prediction.image.resize(drawn.size, Image.Resampling.NEAREST))
            both.paste(drawn, (drawn.width, 0))
            drawn = both
        drawn.thumbnail((MOST_SIDE_PX, MOST_SIDE_PX))
        with self._lock:
            if self.size is None:
                self._decide(prediction, drawn)
        width, height = self.size or drawn.size
        key_px = 0 if self.key is None else self.key.height
        if drawn.height != height - key_px or drawn.width > width:  # the clip changes its size
            drawn = drawn.resize((width, height - key_px), Image.Resampling.BILINEAR)
        return drawn if self.key is None else stack([drawn, self.key])

    def _decide(self, prediction: Any, drawn: Image.Image) -> None:
        font_px = font_px_for(*drawn.size)
        if hasattr(prediction, "key"):
            self.key = prediction.key(self._others, max(drawn.width, 14 * font_px), font_px)
        whole = drawn if self.key is None else stack([drawn, self.key])
        self.size = whole.size


class FrameFiles:
    """How frames are read and written.

    Args:
        folder: Where their data files go; it is there.
        painter: What draws their pictures.
    """

    def __init__(self, folder: Path, painter: Painter) -> None:
        self._folder, self._painter = folder, painter

    def read(self, item: Frame, *, fit: Resize, fit_now: bool) -> Read | Outcome:
        """A frame as the network takes it."""
        try:
            image = item.read()
            check_fitted_size(image, fit, item.name)
        except UsageError as error:
            return Outcome(item.name, error=str(error))
        return Read(item, Picture(image, 1, ()), Fitted.of(image, fit) if fit_now else None)

    def write(self, read: Read, prediction: Prediction) -> FrameDone:
        """Write the data file of a frame, and draw its picture."""
        frame: Frame = read.item
        name = f"{frame.number:0{DIGITS}d}.png"
        prediction.save(self._folder / name)
        line = {
            "frame": frame.number,
            "time_s": round(frame.time_s, 6),
            "data": name,
            "height": prediction.image.height,
            "width": prediction.image.width,
            **prediction.facts(),
        }
        return FrameDone(frame.name, line, frame.time_s, self._painter.paint(prediction))
