"""Videos out: H.264 in MP4, in parts that are whole each and joined without being encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vpd.errors import UsageError
from vpd.video.containers import check_pyav

TICKS = 90_000
"""In a second: frames keep the times that they have."""
_CODECS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "libx264",
        {"preset": "veryfast", "crf": "20", "bf": "0"},
    ),  # without frames of both directions parts can be joined
    ("libopenh264", {}),
    ("mpeg4", {"q:v": "3"}),
)
_BT709 = 1
_BIT_RATE_PER_PX = 8  # of codecs that know no constant quality


class VideoWriter:
    """Writes frames of one size with their times into an MP4 file.

    Args:
        path: The file.
        size: Width and height; odd ones get a white column or row.
        fps: Frames a second, about.
        pixel_aspect: Width of a pixel over its height.

    Raises:
        UsageError: If PyAV is not installed, or has no encoder for such a video.
    """

    def __init__(self, path: Path, size: tuple[int, int], *, fps: float, pixel_aspect: Fraction) -> None:
        self._av = check_pyav()
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._last = -1
        name, options = self._codec()
        self._container = self._av.open(str(path), "w", format="mp4")
        stream = self._stream = self._container.add_stream(name, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt, stream.options = *self._size, "yuv420p", dict(options)
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        if name != "libx264":
            stream.bit_rate = int(self._size[0] * self._size[1] * _BIT_RATE_PER_PX)
        if pixel_aspect != 1:
            stream.codec_context.sample_aspect_ratio = pixel_aspect.limit_denominator(255)

    def add(self, image: Image.Image, time_s: float) -> None:
        """Add a frame, RGB, at seconds since the file begins."""
        if image.size != self._size:
            canvas = Image.new("RGB", self._size, "white")
            canvas.paste(image)
            image = canvas
        frame = self._av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        self._last = max(self._last + 1, round(time_s * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left."""
        if self._last >= 0:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _codec(self) -> tuple[str, dict[str, str]]:
        for name, options in _CODECS:
            if name in self._av.codecs_available:
                return name, options
        raise UsageError(
            f"This PyAV has none of the encoders {', '.join(name for name, _ in _CODECS)}. "
            'Install it with FFmpeg\'s libraries inside: pip install --force-reinstall --only-binary av "av>=18"'
        )


class Part(NamedTuple):
    """A video of `VideoWriter` that is joined to others."""

    path: Path
    begins_s: float
    """When its first frame is shown."""
    frames: int
    """How many of its frames are taken, at least one; a run that was stopped may have added more."""


def join(parts: Sequence[Part], path: Path) -> None:
    """Put videos, at least one, into one file."""
    av = check_pyav()
    stream: Any = None
    end = -1
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        for part in parts:
            with av.open(str(part.path)) as source:
                own = source.streams.video[0]
                stream = stream or out.add_stream_from_template(own)
                packets = (packet for packet in source.demux(own) if packet.dts is not None)  # an empty one at the end
                for packet in islice(packets, part.frames):
                    start = round(float(packet.pts * packet.time_base + Fraction(part.begins_s)) * TICKS)
                    packet.pts = packet.dts = end = max(end + 1, start)
                    packet.time_base = Fraction(1, TICKS)
                    packet.stream = stream
                    out.mux(packet)
