"""Clips of pictures: numbered files, GIF and WebP animations, pictures that a program hands over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from vpd.errors import UsageError, first_line
from vpd.files.decoding import check_size, to_rgb
from vpd.files.images import IMAGE_SUFFIXES, read_image
from vpd.video.frames import Clock, Frame, broken, whole

_ANIMATIONS = ("GIF", "WEBP", "PNG")
_STANDARD_MS = 100  # how long browsers show a frame that asks for 10 ms or less
_SHORTEST_MS = 10
_NUMBERED = re.compile(r"%0?(\d*)d")


class Pictures:
    """A clip of single pictures.

    Args:
        pictures: Whatever `read` takes, in their order.
        name: What messages call the clip.
        read: Makes a picture of one of them, RGB, upright; raises `UsageError` where it cannot.
        fps: Frames a second.
    """

    def __init__(
        self, pictures: Iterable[Any], name: str, *, read: Callable[[Any], Image.Image] = read_image, fps: float
    ) -> None:
        self.name, self.fps, self.note = name, fps, ""
        self.is_live, self.pixel_aspect = False, Fraction(1)
        self._pictures, self._read = pictures, read
        self.about_frames = len(pictures) if isinstance(pictures, Sequence) else None

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def frames(self) -> Iterator[Frame]:
        """See `Clip`."""
        for number, picture in enumerate(self._pictures):
            told = picture if isinstance(picture, str) else f"{self.name}, frame {number}"
            yield Frame(number, number / self.fps, told, partial(self._read, picture))

    def glimpses(self, number: int) -> Iterator[Image.Image]:
        """See `Clip`."""
        if isinstance(self._pictures, Sequence):
            for part in range(min(number, len(self._pictures))):
                try:
                    yield self._read(self._pictures[int(len(self._pictures) * (part + 0.5) / number)])
                except UsageError:
                    continue


class Animation:
    """A clip of a GIF, WebP or PNG file with several frames, by Pillow.

    Raises:
        UsageError: If it cannot be opened.
    """

    def __init__(self, path: str, name: str) -> None:
        self.name, self.note = name, ""
        self.is_live, self.pixel_aspect = False, Fraction(1)
        self._path, self._stack = path, ExitStack()
        if not Path(path).is_file():
            raise UsageError(f"{name}: no such file")
        try:
            self._image = self._stack.enter_context(Image.open(path, formats=_ANIMATIONS))
            check_size(self._image.size, name)
        except UsageError:
            raise
        except Exception as error:  # decoders raise every kind of exception on damaged files
            raise UsageError(f"{name}: no animation that can be read here ({first_line(error)})") from None
        self.about_frames: int | None = None
        with suppress(Exception):  # of a file that was cut off
            self.about_frames = getattr(self._image, "n_frames", 1)
        self.fps = 1000 / _duration_ms(self._image)

    def __enter__(self) -> Animation:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def frames(self) -> Iterator[Frame]:
        """See `Clip`."""
        clock, told_s = Clock(self.fps), 0.0
        for number in count():
            time_s = clock.at(told_s)
            try:
                self._image.seek(number)
                picture = to_rgb(self._image, self.name).copy()
            except EOFError:
                break
            except Exception as error:  # the rest is built upon this frame
                yield broken(number, time_s, self.name, f"cannot be decoded ({first_line(error)})")
                self.note = f"{self.name} breaks off after {number} frames."
                return
            yield whole(number, time_s, self.name, picture.copy)
            told_s += _duration_ms(self._image) / 1000
        if self.about_frames is None:
            self.note = f"{self.name} breaks off after {number} frames."

    def glimpses(self, number: int) -> Iterator[Image.Image]:
        """See `Clip`; by an own look at the file."""
        wanted = {int((self.about_frames or 1) * (part + 0.5) / number) for part in range(number)}
        with Animation(self._path, self.name) as other:
            for frame in other.frames():
                if frame.number in wanted:
                    try:
                        yield frame.read()
                    except UsageError:
                        return


def is_animation(path: str) -> bool:
    """Whether a file is a GIF, or a WebP or PNG file of several frames."""
    try:
        with Image.open(path, formats=_ANIMATIONS) as image:
            return image.format == "GIF" or getattr(image, "n_frames", 1) > 1
    except Exception:  # whatever it is, it is read elsewhere
        return False


def numbered_files(pattern: str) -> list[str]:
    """Files that a name with `%d` or `%06d` stands for, by their numbers.

    Raises:
        UsageError: If there is none, or the number is in the name of a folder.
    """
    path = Path(pattern)
    match = _NUMBERED.search(path.name)
    if match is None or _NUMBERED.search(str(path.parent)):
        raise UsageError(f"{pattern}: give %d, or %06d for six digits, once in the name of the pictures")
    before, after = path.name[: match.start()], path.name[match.end() :]
    digits = f"[0-9]{{{match[1]},}}" if match[1] else "[0-9]+"
    name = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
    found = [(name.fullmatch(each.name), each) for each in path.parent.iterdir()] if path.parent.is_dir() else []
    files = [str(each) for _, each in sorted((int(hit[1]), each) for hit, each in found if hit)]
    if not files:
        raise UsageError(f"{pattern}: there is no such picture")
    return files


def is_numbered(source: str) -> bool:
    """Whether a user's word is the name of numbered pictures."""
    path = Path(source)
    return bool(_NUMBERED.search(path.name)) and path.suffix.lower() in IMAGE_SUFFIXES and not path.exists()


def _duration_ms(image: Image.Image) -> float:
    """How long the frame is shown at which the file stands."""
    try:
        told = float(image.info.get("duration", 0))
    except (TypeError, ValueError):
        told = 0
    return told if _SHORTEST_MS < told < 1e7 else _STANDARD_MS
