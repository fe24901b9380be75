"""Results never replace a file that something else made: how the files of an earlier run are told from others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.atomic import read_json

_SHOWN = 3


def refuse_files(files: Sequence[str | Path], writer: str, *, remedy: str) -> None:
    """Refuse files that would be written over, where there are any.

    Args:
        files: They.
        writer: Who would, and did not make them.
        remedy: What to do instead of moving them away.

    Raises:
        UsageError: If there are any; names the first and tells how many there are.
    """
    if not files:
        return
    shown = ", ".join(map(str, files[:_SHOWN]))
    more = f" and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    one_or_many = "1 file that it did not make" if len(files) == 1 else f"{len(files):,} files that it did not make"
    raise UsageError(f"{writer} would write over {one_or_many}: {shown}{more}. {remedy}, or move them away.")


def check_own_folder(
    folder: Path, files: Sequence[str], writer: str, *, is_own: Callable[[Path], bool], option: str = "--out"
) -> None:
    """Make sure that fixed files of a folder are missing, or of an earlier run.

    Args:
        folder: It need not exist.
        files: Names of what is written. The first is written first; if it is of an earlier run, all are, also of one
            that was killed.
        writer: As for `refuse_files`.
        is_own: Whether the first file, which exists, is of such a run.
        option: What names the folder.

    Raises:
        UsageError: If there are others.
    """
    there = [path for name in files if os.path.lexists(path := folder / name)]
    if there and not (there[0] == folder / files[0] and is_own(there[0])):
        refuse_files(there, writer, remedy=f"Give another {option}")


def check_own_json(path: Path, keys: Iterable[str], writer: str, *, option: str = "--out") -> None:
    """Make sure that a JSON file is missing, empty, or such a one as is to be written.

    Args:
        path: Of the file.
        keys: What such a file has.
        writer: As for `refuse_files`.
        option: What names the file.

    Raises:
        UsageError: If it is another file, or a folder.
    """
    is_empty = path.is_file() and not path.stat().st_size  # as programs make them that hand a name on
    if os.path.lexists(path) and not is_empty and not has_keys(path, keys):
        refuse_files([path], writer, remedy=f"Give another {option}")


def has_keys(path: Path, keys: Iterable[str]) -> bool:
    """Whether a file is a JSON object that has these keys."""
    found = json_of(path)
    return isinstance(found, dict) and found.keys() >= set(keys)


def json_of(path: Path) -> Any:
    """What a JSON file says; none = it is missing, torn or says nothing, and is of no use to anybody."""
    try:
        return read_json(path)
    except UsageError:
        return None


def begins_with(path: Path, words: str) -> bool:
    """Whether words stand near the beginning of a file, such as a page's title."""
    try:
        with path.open("rb") as file:
            return words.encode() in file.read(4096)
    except OSError:
        return False
