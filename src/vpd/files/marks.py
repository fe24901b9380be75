"""A mark in pictures that a command writes, by which a later run knows them as its own and no file of a user's."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.png_texts import SIGNATURE

_WORDS = b"written by vpd, "
_DIGEST_BYTES = 16
_PNG_PLACE = len(SIGNATURE) + 25  # behind its header
_JPEG_START, _JFIF = b"\xff\xd8", b"\xff\xe0"


def marked(content: bytes) -> bytes:
    """A PNG or JPEG with the mark: a text in it, with a checksum of the rest; anything else as it is.

    So a file that was changed since is nobody's but the user's, also where a program kept the text.
    """
    place, mark = _place(content), _mark(content)
    return content[:place] + mark + content[place:] if mark else content


def write_marked(path: Path, save: Callable[[Any], object]) -> None:
    """Write a file with the mark, whole or not at all, so that it is known though the run may be killed next.

    Args:
        path: Of the file.
        save: Writes it into an open file, or, where it cannot, to a path.

    Raises:
        UsageError: As `save` does.
    """
    buffer = BytesIO()
    with atomic_write(path) as temporary:
        try:
            save(buffer)
        except UsageError:
            raise
        except Exception:  # predictions of a task from outside may know paths alone, and say so in many ways
            save(temporary)
            buffer = BytesIO(temporary.read_bytes())
        temporary.write_bytes(marked(buffer.getvalue()))


def is_marked(path: str | Path) -> bool:
    """Whether a file is just as `marked` made it; what cannot be read is not."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
            if _WORDS not in head:  # of a user's, no more is read
                return False
            content = head + file.read()
    except OSError:
        return False
    place = _place(content)
    end = place + len(_mark(content))
    rest = content[:place] + content[end:]
    return end > place and content[place:end] == _mark(rest)


def _place(content: bytes) -> int:
    """Where the mark stands: behind what must come first in such a file."""
    if content.startswith(SIGNATURE):
        return _PNG_PLACE
    is_jfif = content[len(_JPEG_START) :].startswith(_JFIF)
    return 4 + int.from_bytes(content[4:6]) if is_jfif else len(_JPEG_START)


def _mark(content: bytes) -> bytes:
    """The part of a PNG or JPEG that says whose it is; empty for other files."""
    words = _WORDS + hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest().encode()
    if content.startswith(SIGNATURE):
        chunk = b"tEXtSoftware\0" + words
        return (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    if content.startswith(_JPEG_START):
        return b"\xff\xfe" + (len(words) + 2).to_bytes(2) + words
    return b""
