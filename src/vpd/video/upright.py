"""Decoded frames as people see them: turned as the file says, without the combs of interlacing."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

_TURNS = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Where a step to the right and a step down go, `(x, y)` each -> what Pillow calls it."""
_MATRIX = struct.Struct("=9i")


class Turn(NamedTuple):
    """How the frames of a video are turned before they are shown, as phones write it into the file."""

    transpose: Image.Transpose | None

    @classmethod
    def of(cls, frame: Any) -> Turn:
        """That of a decoded frame; a matrix of any other angle counts as the nearest of the eight."""
        for data in frame.side_data:
            content = bytes(data)
            if data.type.name == "DISPLAYMATRIX" and len(content) == _MATRIX.size:
                across_x, across_y, _, down_x, down_y, *_ = _MATRIX.unpack(content)
                is_sideways = abs(across_y) + abs(down_x) > abs(across_x) + abs(down_y)
                kept = (0, across_y, down_x, 0) if is_sideways else (across_x, 0, 0, down_y)
                return cls(_TURNS.get(tuple((each > 0) - (each < 0) for each in kept)))  # type: ignore[arg-type]
        return cls(None)

    @property
    def is_sideways(self) -> bool:
        """Whether rows become columns."""
        sideways = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
        return self.transpose in (*sideways, Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE)

    def upright(self, image: Image.Image) -> Image.Image:
        """The picture as it shall be seen."""
        return image if self.transpose is None else image.transpose(self.transpose)


class Deinterlacer:
    """Makes whole frames of interlaced ones, as many as there were; all others pass as they are.

    Args:
        av: PyAV.
        time_base: Unit of the frames' times.
    """

    def __init__(self, av: Any, time_base: Any) -> None:
        self._av, self._time_base = av, time_base
        self._graph: Any = None
        self._form: Any = None
        self._times: deque[int | None] = deque()

    def put(self, frame: Any) -> Iterator[Any]:
        """Frames that are finished once this one is there, often the one before."""
        form = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and form != self._form:
            yield from self.end()
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        if self._graph is None:
            self._begin(frame, form)
        self._times.append(frame.pts)
        self._graph.push(frame)
        yield from self._finished()

    def end(self) -> Iterator[Any]:
        """Frames that waited for more."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._finished()
            self._graph = None
            self._times.clear()

    def _begin(self, frame: Any, form: tuple[int, int, str]) -> None:
        width, height, pixels = form
        graph = self._av.filter.Graph()
        source = graph.add_buffer(width=width, height=height, format=pixels, time_base=self._time_base)
        bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        self._graph, self._form = graph, form

    def _finished(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (self._av.error.BlockingIOError, self._av.error.EOFError):
                return
            frame.pts = self._times.popleft() if self._times else None  # the filter counts in halves
            frame.time_base = self._time_base
            yield frame
