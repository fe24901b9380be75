"""Videos of a few small frames, made by PyAV; what imports this skips where PyAV is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'vpd-perception[video]'")

Pixels = NDArray[np.uint8]


def level_frames(count: int, *, height: int = 48, width: int = 64) -> list[Pixels]:
    """Frames whose grey tells their number, three levels apart."""
    return [np.full((height, width, 3), 20 + 3 * number, np.uint8) for number in range(count)]


def number_of(pixels: Any) -> int:
    """Number of a frame of `level_frames` that went through a codec."""
    return round((float(np.asarray(pixels).mean()) - 20) / 3)


def write_clip(
    path: Path,
    frames: Sequence[Pixels],
    *,
    rate: int = 25,
    ticks: Sequence[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    turn: tuple[int, bool] | None = None,
    with_sound: bool = False,
    form: str | None = None,
) -> Path:
    """A video of the frames; `ticks` are their times in hundredths of a second."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=100 if ticks else rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, pixels, options or {}
        sound = container.add_stream("aac", rate=44100) if with_sound else None
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if ticks:
                frame.pts = ticks[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 44100
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def damage(path: Path, *, start: float, stop: float) -> Path:
    """Overwrite a part of what a file holds between `mdat` and `moov`, told as shares."""
    content = bytearray(path.read_bytes())
    first = content.find(b"mdat") + 4
    length = content.find(b"moov", first) - first
    for place in range(first + int(start * length), first + int(stop * length)):
        content[place] ^= 0x5A
    path.write_bytes(content)
    return path
