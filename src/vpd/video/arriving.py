"""Frames as they arrive: decoded ahead by a thread of their own, or the newest where nobody waits for us."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import count, islice

from vpd.inference.overlapped import overlapped
from vpd.video.frames import Clip, Frame

_AHEAD = 4
"""Frames that are decoded and wait."""


def arriving(clip: Clip, *, most: int) -> Generator[Frame, None, None]:
    """Frames of a clip, made ahead; of one that is live those that come while we work are passed over but the last.

    Args:
        clip: What has frames.
        most: How many of them are taken, at most.
    """
    source = clip.frames()
    if clip.is_live:
        yield from islice(_newest(source), most)
        return

    def take(_: int) -> Frame | None:
        return next(source, None)

    with closing(overlapped(take, islice(count(), most), threads=1, most_ahead=_AHEAD)) as ahead:
        for frame in ahead:
            if frame is None:
                return
            yield frame


def _newest(source: Iterator[Frame]) -> Generator[Frame, None, None]:
    """The last frame that has come whenever one is asked for, and each once."""
    changed, is_over = threading.Condition(), threading.Event()
    newest: list[Frame] = []
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            for frame in source:
                with changed:
                    newest[:] = [frame]
                    changed.notify()
                if is_over.is_set():
                    return
        except BaseException as error:  # raised where the frames are asked for
            failures.append(error)
        finally:
            is_over.set()
            with changed:
                changed.notify()

    thread = threading.Thread(target=watch, name="vpd-live", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: newest or is_over.is_set())
                frame = newest.pop() if newest else None
            if frame is None:
                break
            yield frame
        if failures:
            raise failures[0]
    finally:
        is_over.set()
        thread.join()
