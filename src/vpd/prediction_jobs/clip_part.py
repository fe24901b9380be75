"""A part of a clip while it is predicted: what was taken for it and is done, and its video."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

from vpd.prediction_jobs.frame_files import FrameDone, Painter
from vpd.prediction_jobs.items import Outcome
from vpd.video.encoding import VideoWriter
from vpd.video.frames import Clip


class Taken:
    """Frames that were taken for a part, and the lines of those that are done, which may be fewer after a stop."""

    def __init__(self) -> None:
        self.chunks: list[tuple[str, ...]] = []
        """Sources of frames, in their order; not the frames, which hold pictures."""
        self.lines: dict[str, dict[str, Any]] = {}
        """Source -> line; those of broken frames are known before others."""
        self.has_met_the_end = False
        """Whether the clip has no further frames. Frames are taken ahead: those before need not be done."""

    @property
    def count(self) -> int:
        """How many were taken."""
        return sum(map(len, self.chunks))

    def all_lines(self) -> list[dict[str, Any]]:
        """Lines of all that is done, in the order of the frames."""
        return [self.lines[source] for chunk in self.chunks for source in chunk if source in self.lines]

    def lines_of_whole_chunks(self) -> list[dict[str, Any]]:
        """Lines as far as no frame of a chunk is missing: the next run cuts the same chunks."""
        whole = takewhile(lambda chunk: all(source in self.lines for source in chunk), self.chunks)
        return [self.lines[source] for chunk in whole for source in chunk]

    def has_whole_chunk_of(self, source: str) -> bool:
        """Whether all frames are done that were taken together with this one."""
        return all(each in self.lines for chunk in self.chunks if source in chunk for each in chunk)


class Encoder:
    """Adds pictures to the video of a part, in a thread of its own."""

    def __init__(self, path: Path, painter: Painter, clip: Clip) -> None:
        self._path, self._painter, self._clip = path, painter, clip
        self._writer: VideoWriter | None = None
        self._begins_s = 0.0

    def add(self, outcome: FrameDone | Outcome) -> FrameDone | Outcome:
        """Write the picture of a frame, if it has one; hands the outcome on."""
        if isinstance(outcome, FrameDone):
            if self._writer is None:
                size, aspect = outcome.picture.size, self._clip.pixel_aspect
                self._writer = VideoWriter(self._path, size, fps=self._clip.fps, pixel_aspect=aspect)
                self._begins_s = outcome.time_s
            self._writer.add(outcome.picture, outcome.time_s - self._begins_s)
        return outcome

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
