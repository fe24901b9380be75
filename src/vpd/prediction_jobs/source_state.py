"""Whether an image file is still what it was when it was predicted."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

_TICK_S = 0.02
"""More than one step of the clock that stamps files: two changes further apart have different times."""
_DIGEST_BYTES = 16


class SourceState(NamedTuple):
    """What a file was when it was read; a manifest line holds it."""

    size_bytes: int | None
    """Its size."""
    mtime_ns: int | None = None
    """Its modification time, nanoseconds; copies may keep it."""
    ctime_ns: int | None = None
    """When anything of it changed last, which no copy keeps; none = not known."""
    digest: bytes | None = None
    """Of its content; none in lines of older versions, which go by the size."""

    @classmethod
    def of_file(cls, path: str) -> SourceState:
        """The state of a file now.

        Raises:
            OSError: If it cannot be read.
        """
        found = os.stat(path)  # noqa: PTH116, before the content is read: a change meanwhile is noticed later
        if not stat.S_ISREG(found.st_mode):  # a pipe can be read once
            return cls(found.st_size)
        if 0 <= time.time() - found.st_ctime < _TICK_S:
            time.sleep(_TICK_S)  # or a change after it was read might have the same time
        ctime_ns = None if os.name == "nt" else found.st_ctime_ns  # on Windows it is when the file was made
        return cls(found.st_size, found.st_mtime_ns, ctime_ns, _digest(path))

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> SourceState:
        """The state that a manifest line holds."""
        mtime, ctime = (_integer(line.get(f"source_{name}_ns")) for name in ("mtime", "ctime"))
        return cls(_integer(line.get("source_bytes")), mtime, ctime, _from_hex(line.get("source_blake2b")))

    def fields(self) -> dict[str, Any]:
        """The state as a manifest line has it."""
        return {
            "source_bytes": self.size_bytes,
            "source_mtime_ns": self.mtime_ns,
            "source_ctime_ns": self.ctime_ns,
            "source_blake2b": self.digest.hex() if self.digest else None,
        }

    def at_a_glance(self, path: str) -> bool | None:
        """Whether the file is the same as far as that can be told without reading it; none = it must be read.

        Raises:
            OSError: If there is no such file any more.
        """
        found = os.stat(path)  # noqa: PTH116
        if found.st_size != self.size_bytes:
            return False
        if self.digest is None:
            return True
        is_untouched = self.ctime_ns is not None and (found.st_mtime_ns, found.st_ctime_ns) == self[1:3]
        return True if is_untouched else None

    def fits(self, path: str) -> bool:
        """Whether the file is the same; reads it where times differ.

        Raises:
            OSError: If it cannot be read any more.
        """
        seen = self.at_a_glance(path)
        return _digest(path) == self.digest if seen is None else seen


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _from_hex(text: Any) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        return None
