"""Video files, streams and webcams by PyAV: limits first, no other file or address opened, broken frames named.

The only file beside `encoding.py` that needs PyAV (`pip install "vpd-perception[video]"`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from vpd.errors import UsageError, first_line
from vpd.files.decoding import MAX_PIXELS, check_size
from vpd.video.frames import Clock, Frame, broken, sane_fps, whole
from vpd.video.upright import Deinterlacer, Turn

NETWORK_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto,udp,rtp,srtp,rtsp,rtmp,rtmps,rtmpt,srt"
"""What an address may lead to; never files of this machine."""
_FORMATS = (
    "3dostr,amv,apng,asf,av1,avi,avs2,avs3,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,lmlm4,m4v,matroska,webm,mjpeg,"
    "mlv,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,mv,mxf,mxg,nut,obu,ogg,rm,roq,swf,vc1,vvc,wtv,yuv4mpegpipe"
)
"""Of files: those that hold the pictures themselves, none of those that name other files or addresses."""
_LISTS = ("hls", "dash")
"""Over the network: lists of pieces of a video, which grow while it is live."""
_PICTURES_PUSHED = "mpjpeg"
"""Of cameras, some of which tell a length all the same."""
_LONGEST_PIECE_S = 30.0
_OPEN_S, _READ_S = 20.0, 20.0
_MOST_BREAKS = 20  # of a file, after which reading goes on
_MOST_FAILURES = 1000  # packets, one after the other, of which none gives a frame
_LOST = "cannot be decoded (damaged data)"
_NOT_SAID = 2  # colour space of a frame
_HD_PX = 720  # from so many rows on, colours that are not said are those of BT.709
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


def check_pyav() -> Any:
    """The module `av`.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        return import_module("av")
    except ImportError as error:
        raise UsageError(f'Videos need PyAV ({error}): pip install "vpd-perception[video]"') from None


class Container:
    """A clip that PyAV reads.

    Args:
        source: A file, an address, or the device of a camera.
        name: What messages call it.
        is_address: Whether it is an address: then the network is used, and no file.
        is_camera: Whether it is the device of a camera.

    Raises:
        UsageError: If it cannot be opened, has no video, or its frames are too large.
    """

    def __init__(self, source: str, name: str, *, is_address: bool = False, is_camera: bool = False) -> None:
        self.name, self.note = name, ""
        self._source, self._is_address, self._is_camera = source, is_address, is_camera
        self._av = check_pyav()
        self._container = self._open()
        self._stream = _picture_streams(self._container)[0]
        self.fps = sane_fps(self._stream.average_rate or self._stream.guessed_rate)
        self.is_live = is_camera or (is_address and not self._has_end())
        self.about_frames = None if self.is_live else self._count()
        aspect = self._stream.sample_aspect_ratio
        self.pixel_aspect = Fraction(aspect) if aspect and Fraction(1, 10) < aspect < 10 else Fraction(1)
        self._turn: Turn | None = None  # of the first frame
        self._has_times = self._container.format.name != "avi"  # which knows only the order of decoding

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """See `Clip`."""
        if not (self.is_live and self._container.format.name in _LISTS):
            yield from self._frames()
            return
        began_s = time.monotonic()
        for frame in self._frames():  # pieces of some seconds come at once: each frame has its own time
            wait_s = began_s + frame.time_s - time.monotonic()
            if wait_s > _LONGEST_PIECE_S:  # pieces were missed
                began_s -= wait_s
            elif wait_s > 0:
                time.sleep(wait_s)
            yield frame

    def _frames(self) -> Iterator[Frame]:
        clock, number, last_pts = Clock(self.fps), 0, None
        waiting: set[int] = set()  # times of packets that gave no frame yet
        has_failed = False
        for frame, packet_pts, is_failure in self._decoded():
            has_failed |= is_failure
            if packet_pts is not None:
                waiting.add(packet_pts)
            elif is_failure and not self._has_times:
                yield broken(number, clock.at(None), self.name, _LOST)
                number += 1
            if frame is None:
                continue
            pts = frame.pts if self._has_times else None
            lost = sorted(each for each in waiting if pts is not None and each < pts)
            waiting.difference_update((*lost, pts))
            for each in lost if has_failed else ():  # of whole files, packets may be no frames
                yield broken(number, clock.at(self._seconds(each)), self.name, _LOST)
                number += 1
            if frame.is_corrupt or (has_failed and pts is not None and last_pts is not None and pts <= last_pts):
                yield broken(number, clock.at(self._seconds(pts)), self.name, "was damaged")
            else:
                yield whole(number, clock.at(self._seconds(pts)), self.name, self._reader(frame))
            number += 1
            last_pts = pts if last_pts is None or (pts is not None and pts > last_pts) else last_pts
        for each in sorted(waiting) if has_failed else ():
            yield broken(number, clock.at(self._seconds(each)), self.name, _LOST)
            number += 1
        if not number:
            raise UsageError(f"{self.name}: no frame of this video can be decoded. Is it damaged, or cut off?")
        if self.about_frames and number < 0.9 * self.about_frames - 2 and not self.note:
            self.note = f"{self.name} ends after {number} of about {self.about_frames} frames: it may be cut off."

    def glimpses(self, number: int) -> Iterator[Image.Image]:
        """See `Clip`."""
        length = self._container.duration
        if self._is_address or self._is_camera or not length or length < 0:
            return
        for part in range(number):
            with suppress(self._av.error.FFmpegError, UsageError), Container(self._source, self.name) as other:
                start = other._container.start_time or 0
                other._container.seek(start + int(length * (part + 0.5) / number))
                yield next(other.frames()).read()

    def _open(self) -> Any:
        options, form, source = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}, None, self._source
        if self._is_address:
            options, timeout = {"protocol_whitelist": NETWORK_PROTOCOLS}, (_OPEN_S, _READ_S)
            if source.lower().startswith("rtsp"):
                options["rtsp_transport"] = "tcp"  # udp loses packets, and is blocked by most networks
        elif self._is_camera:
            options, form, timeout = {}, _CAMERAS.get(sys.platform), (_OPEN_S, _READ_S)
        else:
            self._check_file()
            source, timeout = f"file:{source}", None
        try:
            container = self._av.open(source, options=options, format=form, timeout=timeout, metadata_errors="replace")
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise UsageError(self._cannot_open(error)) from None
        try:
            self._check_stream(container)
        except BaseException:
            container.close()
            raise
        return container

    def _check_file(self) -> None:
        path = Path(self._source)
        if not path.exists():
            raise UsageError(f"{self.name}: no such file")
        if not path.is_file():
            raise UsageError(f"{self.name}: not a file; a video is needed here")
        if not path.stat().st_size:
            raise UsageError(f"{self.name}: the file is empty")

    def _check_stream(self, container: Any) -> None:
        """Choose the video of a container, and let nothing larger be decoded than is allowed."""
        streams = _picture_streams(container)
        if not streams:
            raise UsageError(f"{self.name}: holds no video that can be read here")
        stream, context = streams[0], streams[0].codec_context
        if context is None or context.codec is None:
            raise UsageError(f"{self.name}: its video is of a kind that FFmpeg cannot decode")
        if context.width and context.height:
            check_size((context.width, context.height), self.name)
        context.options = {"max_pixels": str(MAX_PIXELS)}  # also where a later frame says that it is larger
        stream.thread_type = "AUTO"

    def _cannot_open(self, error: Exception) -> str:
        is_silent = isinstance(error, self._av.error.ExitError)  # PyAV's word for a time-out
        said = f"nothing came for {_OPEN_S:.0f} s" if is_silent else _said(error)
        if self._is_camera:
            return (
                f"{self.name} cannot be opened ({said}). Is a camera there, free, and may you use it? Another one: "
                "webcam:1, or its name, such as webcam:/dev/video2."
            )
        if self._is_address:
            return f"{self.name} cannot be opened ({said}). Is the address right, and can it be reached from here?"
        return f"{self.name}: no video that can be read here, or its beginning or end is missing ({said})"

    def _decoded(self) -> Iterator[tuple[Any, int | None, bool]]:
        """What comes: a frame or none; time of the packet that was begun; whether something failed."""
        deinterlacer = Deinterlacer(self._av, self._stream.time_base)
        failures = 0
        for packet in self._packets():
            is_frame = self._has_times and packet.size and not packet.is_discard
            pts = packet.pts if is_frame else None
            yield None, pts, packet.is_corrupt and self._has_times
            try:
                made = packet.decode()
            except (self._av.error.FFmpegError, ValueError, MemoryError):
                yield None, None, True
                failures += 1
                if failures > _MOST_FAILURES:
                    self.note = f"{self.name}: nothing after this can be decoded."
                    break
                continue
            for frame in made:
                failures = 0
                yield from ((finished, None, False) for finished in deinterlacer.put(frame))
        yield from ((finished, None, False) for finished in deinterlacer.end())

    def _packets(self) -> Iterator[Any]:
        """All that can be read of the stream, and an empty one at the end."""
        breaks = 0
        while True:
            try:
                yield from self._container.demux(self._stream)
                return
            except self._av.error.EOFError:
                return
            except (self._av.error.FFmpegError, OSError) as error:
                breaks += 1
                if self._is_address or self._is_camera or breaks > _MOST_BREAKS:
                    self.note = f"{self.name} broke off ({_said(error)})."
                    return

    def _reader(self, frame: Any) -> Callable[[], Image.Image]:
        """What makes a picture of a frame."""
        if self._turn is None:
            self._turn = Turn.of(frame)
            self.pixel_aspect = 1 / self.pixel_aspect if self._turn.is_sideways else self.pixel_aspect
        turn, name = self._turn, self.name
        is_hd = int(frame.colorspace) == _NOT_SAID and frame.height >= _HD_PX
        colours = {"src_colorspace": "ITU709"} if is_hd else {}

        def read() -> Image.Image:
            check_size((frame.width, frame.height), name)
            return turn.upright(frame.to_image(**colours))

        return read

    def _seconds(self, pts: int | None) -> float | None:
        base = self._stream.time_base
        return None if pts is None or base is None else float(pts * base)

    def _has_end(self) -> bool:
        """Whether an address leads to a file: it says how long it is, in seconds, frames or bytes."""
        if not self._source.lower().startswith("http"):
            return False
        is_sized = self._container.size > 0 and self._container.format.name not in (*_LISTS, _PICTURES_PUSHED)
        return is_sized or self._count() is not None

    def _count(self) -> int | None:
        if 0 < self._stream.frames < 10**9:
            return int(self._stream.frames)
        length = self._container.duration
        seconds = length / 1e6 if length and length > 0 else math.inf
        return round(seconds * self.fps) or None if seconds < 1e7 else None


def _picture_streams(container: Any) -> list[Any]:
    """Videos of a container, but for the picture of a cover."""
    return [each for each in container.streams.video if "attached_pic" not in str(each.disposition).lower()]


def _said(error: BaseException) -> str:
    """What FFmpeg says, without its number and the name of the file."""
    return first_line(error).partition("] ")[2].partition(": '")[0] or first_line(error).partition(": '")[0]
