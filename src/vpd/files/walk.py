"""Folders as people have them: hidden and foreign entries passed over, linked folders followed once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from vpd.errors import UsageError

_FOREIGN = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini"}
_FOREIGN |= {"system volume information"}
"""What systems and shares leave behind, in lower case; what begins with a dot is foreign too (`.ipynb_checkpoints`)."""
_PEEKED = 100_000
"""Entries of a folder that are looked at to tell what it holds."""


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data: hidden, or left behind by a system."""
    return name.startswith(".") or name.lower() in _FOREIGN


def walk_files(folder: str | Path) -> Iterator[str]:
    """Paths of the files in a folder and below, folder by folder in the order of their names.

    Linked folders come after what really lies there. Each folder is entered once, and none that the first lies in,
    so that links in a circle end.

    Raises:
        UsageError: If a folder cannot be read.
    """
    seen = {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}
    linked = [str(folder)]
    while linked:
        waiting = [linked.pop(0)]
        while waiting:
            current = waiting.pop()
            try:
                identity = _identity(current)
                entries = [] if identity in seen else sorted(os.scandir(current), key=lambda entry: entry.name)
            except OSError as error:
                raise UsageError(f"{current}: cannot be read ({error.strerror})") from error
            seen.add(identity)
            folders = []
            for entry in entries:
                if is_foreign(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_dir():
                    linked.append(entry.path)
                else:
                    yield entry.path
            waiting += reversed(folders)


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted; without hidden and foreign ones, linked ones included; none where there is none."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not is_foreign(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error
    return [folder / name for name in sorted(names)]


def files_in(folder: Path, *suffixes: str, most: int = 100) -> list[Path]:
    """The first files in a folder, by name, with one of some suffixes (lower case): few enough to look into each."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(suffixes))
    return [folder / name for name in names[:most] if not is_foreign(name) and (folder / name).is_file()]


def some_names(folder: Path) -> list[str]:
    """Names of files and folders in a folder, not all where it is big; without hidden and foreign ones."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, _PEEKED) if not is_foreign(entry.name)]
    return []


def first_file(folder: Path, suffixes: Sequence[str]) -> Path | None:
    """A file with one of some suffixes (lower case) that lies in a folder; big folders are not read to their end."""
    return next(some_files(folder, suffixes), None)


def some_files(folder: Path, suffixes: Sequence[str], *, most: int = 8) -> Iterator[Path]:
    """A few files of `first_file`'s kind, in the disk's order: one odd file does not hide what the others are."""
    found = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, _PEEKED):
            if entry.name.lower().endswith(tuple(suffixes)) and not is_foreign(entry.name) and entry.is_file():
                yield Path(entry.path)
                found += 1
                if found == most:
                    return


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116, a million Path objects take their time
    return status.st_dev, status.st_ino
