"""The files that a clip is made of, and whether they are still what they were when it was predicted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vpd.files.find_images import absolute, searched_folder
from vpd.prediction_jobs.source_state import SourceState
from vpd.video.opening import clip_pictures
from vpd.video.pictures import is_numbered

_READERS = 8
_CONTENT = ("source_bytes", "source_blake2b", "pictures_blake2b")


class ClipFiles:
    """A video or animation, or the pictures that are its frames.

    As with images, times that are the same say that nothing changed, and where they differ the content decides.

    Args:
        source: The file, numbered pictures, or a folder or pattern of pictures.
        out: Output folder; what is in it is no frame.
        most: Pictures that are taken; what comes after them does not count.
    """

    def __init__(self, source: str, out: Path, *, most: int) -> None:
        self._source, self._out, self._most = source, out, most
        self._now: dict[str, Any] | None = None

    def look_again(self) -> None:
        """Forget what they were, if they may have changed."""
        if self._now is not None and self._at_a_glance(self._now) is not True:
            self._now = None

    def state(self) -> dict[str, Any]:
        """What they were when they were looked at first; empty = they could not be read.

        Raises:
            UsageError: If there are no pictures.
        """
        if self._now is None:
            self._now = self._read()
        return self._now

    def are(self, state: Mapping[str, Any]) -> bool:
        """Whether they are what a state says; what is gone, or cannot be read, counts as the same.

        Raises:
            UsageError: If there are no pictures any more.
        """
        if not state:  # what is being removed is of nothing
            return False
        if self._now is None:
            seen = self._at_a_glance(state)
            if seen:
                self._now = dict(state)
            if seen is not None:
                return seen
        now = self.state()
        return not now or all(now.get(key) == state.get(key) for key in _CONTENT)

    def _at_a_glance(self, state: Mapping[str, Any]) -> bool | None:
        """Whether they are the same as far as that can be told without reading them; none = they must be read."""
        if not self._is_of_pictures:
            try:
                return SourceState.of_line(state).at_a_glance(absolute(self._source))
            except OSError:  # opening it will say so better
                return True
        if "pictures" in state and "times" not in state:  # records of early versions
            return True if state["pictures"] == self._early_times() else None
        is_known = os.name != "nt" and state.get("times") == _times(map(_glance, self._pictures()))
        return True if is_known else None

    def _early_times(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path, state in map(_glance, clip_pictures(self._source, except_folder=self._out)):
            digest.update(os.fsencode(f"{path} {state.size_bytes} {state.mtime_ns}\n"))
        return digest.hexdigest()

    def _read(self) -> dict[str, Any]:
        if not self._is_of_pictures:
            try:
                return SourceState.of_file(absolute(self._source)).fields()
            except OSError:  # opening it will say so better
                return {}
        paths, content = self._pictures(), hashlib.blake2b(digest_size=16)
        with ThreadPoolExecutor(_READERS) as readers:
            states = list(readers.map(_state, paths))
        for path, state in zip(paths, states, strict=True):
            content.update(os.fsencode(f"{path} {state.size_bytes} {state.digest.hex() if state.digest else ''}\n"))
        return {"pictures_blake2b": content.hexdigest(), "times": _times(zip(paths, states, strict=True))}

    @property
    def _is_of_pictures(self) -> bool:
        return is_numbered(self._source) or searched_folder(self._source) is not None

    def _pictures(self) -> list[str]:
        return clip_pictures(self._source, except_folder=self._out)[: self._most]


def _state(path: str) -> SourceState:
    try:
        return SourceState.of_file(path)
    except OSError:  # it is skipped as a broken frame
        return SourceState(0)


def _glance(path: str) -> tuple[str, SourceState]:
    """A picture with its size and times."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return path, SourceState(0)
    return path, SourceState(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _times(pictures: Iterable[tuple[str, SourceState]]) -> str:
    """Letters that change with the name, size or times of a picture."""
    digest = hashlib.blake2b(digest_size=16)
    for path, state in pictures:
        digest.update(os.fsencode(f"{path} {state[:3]}\n"))
    return digest.hexdigest()
