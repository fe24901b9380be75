"""Where the page's uploads lie while they are looked at: a folder of its own, swept, and gone at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
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
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sweep_on, name="vpd-sweeper", daemon=True)
        self._thread.start()

    def keep_all(self) -> None:
        """Keep what is there now: examples, no uploads."""
        self._own = frozenset(self.folder.rglob("*"))

    def uploaded(self, given: Any) -> Path:
        """The file that a browser means by what it was told when it sent it.

        Raises:
            UsageError: If it means nothing, or anything else.
        """
        named = given.get("path") if isinstance(given, dict) else None
        if not isinstance(named, str) or not named or "\0" in named:
            raise UsageError("Give a picture first.")
        path = Path(named).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise UsageError("The picture is not kept any more: give it again.")
        return path

    def bytes_used(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self._files())

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
        return (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())

    def _sweep_on(self) -> None:
        while not self._ended.wait(self._every_s):
            self.sweep()


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
