"""Where the page's uploads lie while they are looked at: a folder of its own, swept, and gone at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vpd.errors import UsageError

PREFIX = "vpd-app-"
KEPT_S = 900.0
"""Uploads are removed so many seconds after they were last used."""
_EVERY_S = 30.0


class Scratch:
    """A folder that only this user can read; what is in it when `keep_all` is called stays until the end.

    Args:
        kept_s: How long files are kept, seconds.
        every_s: How often it is looked at, seconds.
    """

    def __init__(self, *, kept_s: float = KEPT_S, every_s: float = _EVERY_S) -> None:
        _remove_left_behind()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._kept_s, self._every_s = kept_s, every_s
        self._own: frozenset[Path] = frozenset()
        self._others: list[Callable[[], None]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sweep_on, name="vpd-sweeper", daemon=True)
        self._thread.start()

    def keep_all(self) -> None:
        """Keep what is there now: examples, no uploads."""
        self._own = frozenset(self.folder.rglob("*"))

    def sweep_too(self, sweep: Callable[[], None]) -> None:
        """Have something else swept as often."""
        self._others.append(sweep)

    def uploaded(self, given: Any) -> Path:
        """The file that a browser means by what it was told when it sent it.

        Raises:
            UsageError: If it means nothing, or anything else.
        """
        named = given.get("path") if isinstance(given, dict) else None
        if not isinstance(named, str) or not named:
            raise UsageError("Give a picture first.")
        if not self.is_here(named) or not os.path.isfile(named):  # noqa: PTH113, a name that is too long is none
            raise UsageError("The picture is not kept any more: give it again.")
        return Path(named).resolve()

    def is_here(self, named: str) -> bool:
        """Whether a name is one of this folder, of a file that is there or of none."""
        return "\0" not in named and Path(named).resolve().is_relative_to(self.folder.resolve())

    def bytes_used(self) -> int:
        """Of all files."""
        used = 0
        for path in self._files():
            with suppress(FileNotFoundError):  # swept or renamed meanwhile
                used += path.stat().st_size
        return used

    def sweep(self, now_s: float | None = None) -> None:
        """Remove what is older than it is kept."""
        now_s = time.time() if now_s is None else now_s
        for path in self._files():
            with suppress(OSError):
                if path not in self._own and now_s - path.stat().st_mtime > self._kept_s:
                    path.unlink()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            with suppress(OSError):  # not empty
                if path.is_dir() and path not in self._own and now_s - path.stat().st_mtime > self._kept_s:
                    path.rmdir()

    def close(self) -> None:
        """Remove all of it."""
        self._ended.set()
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.folder):  # which bears that folders vanish, as rglob does not
            yield from (path for name in names if not (path := Path(folder, name)).is_symlink())

    def _sweep_on(self) -> None:
        while not self._ended.wait(self._every_s):
            for sweep in (self.sweep, *self._others):
                sweep()


@contextmanager
def scratch_folder() -> Iterator[Scratch]:
    """Scratch for as long as the block runs."""
    scratch = Scratch()
    try:
        yield scratch
    finally:
        scratch.close()


def _remove_left_behind() -> None:
    """Folders of processes that were killed before they could remove them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError):
            if number.isdecimal() and folder.stat().st_uid == os.getuid() and not _is_alive(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
