"""Lists of what belongs to a split: names, paths of pictures, or paths of pictures and of their partners."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vpd.datasets.annotations import decode_text, inner_path
from vpd.datasets.depth_arrays import ARRAY_SUFFIXES
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import files_in

USUAL_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "trainval")
"""Names of splits whose lists are taken for lists whatever they say."""
_NO_LISTS = ("classes", "readme", "license", "licence", "labels", "notes", "labelmap", "label_colors", "requirements")
_SUFFIXES = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
_ENDS = "|".join(re.escape(suffix) for suffix in _SUFFIXES)
_TWO_PATHS = re.compile(rf"(.+?(?:{_ENDS}))[\s,;]+(.+?(?:{_ENDS}))", re.IGNORECASE)
_LOOKED_AT = 20


def known_split(root: Path, present: Iterable[str], split: str) -> str:
    """The name of a split as a folder has it, which may be in other letters, or `training` for `train`.

    Raises:
        UsageError: If it has none such; lists what it has.
    """
    names = {name.lower(): name for name in present} | {name: name for name in present}
    other = {"train": "training", "training": "train"}.get(split.lower(), "")
    for name in (split, split.lower(), other):
        if name in names:
            return names[name]
    listed = ", ".join(sorted(set(names.values()))) or "none"
    raise UsageError(f"{root}: no split {split!r}; there are: {listed}")


class Entry(NamedTuple):
    """One line of a list."""

    path: str
    """A name, or the path of a picture; separated by `/`, without suffix."""
    picture: str
    """The same as it stands, with its suffix if it has one."""
    partner: str | None
    """Path of the partner, where the line has one."""
    number: int
    """Of the line."""


def read_names(path: Path) -> list[Entry]:
    """The lines of a list, whichever line ends and slashes it has.

    Raises:
        UsageError: If it has no line, or two that mean the same.
    """
    entries = list(_parse(decode_text(path.read_bytes(), path)))
    if not entries:
        raise UsageError(f"{path}: the list has no name; the {path.stem} split is empty")
    if twice := len(entries) - len({entry.path for entry in entries}):
        raise UsageError(f"{path}: {twice} names stand twice")
    return entries


def list_splits(root: Path, folders: tuple[Path, Path]) -> list[str]:
    """Splits that have a list: text files that name files of the folders, or are called like a split."""
    return [path.stem for path in files_in(root, ".txt") if _is_list(path, root, folders)]


def _is_list(path: Path, root: Path, folders: tuple[Path, Path]) -> bool:
    name = path.stem.lower()
    if name in _NO_LISTS or name.startswith(("readme", "requirements")):
        return False
    if name in USUAL_SPLITS:
        return True
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8-sig", "replace")
    places = (root, *folders)
    for entry in list(_parse(head))[:_LOOKED_AT]:
        try:
            inner_path(entry.picture, "")
            files = [entry.picture, *(entry.path + suffix for suffix in _SUFFIXES)]
            if any((place / file).is_file() for place in places for file in files):
                return True
        except (UsageError, OSError):  # a line of prose
            continue
    return False


def known_name(entry: Entry, folder: Path, names: Collection[str]) -> str:
    """The name by which a folder's files know what a line says: without the folders that lead there.

    Args:
        entry: The line.
        folder: Folder of the pictures.
        names: Names of its files, below it and without suffix.
    """
    parts = PurePosixPath(entry.path).parts
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if (start == 0 or parts[start - 1] == folder.name) and name in names:
            return name
    return entry.path


def _parse(text: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        cleaned = line.strip().replace("\\", "/")
        if not cleaned:
            continue
        both = _TWO_PATHS.fullmatch(cleaned)
        picture, partner = (both[1], both[2]) if both else (cleaned, None)
        name = picture[: picture.rindex(".")] if picture.lower().endswith(_SUFFIXES) else picture
        entries.append(Entry(name.removeprefix("./").lstrip("/") or name, picture, partner, number))
    return entries
