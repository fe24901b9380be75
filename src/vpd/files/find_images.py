"""Which image files a user's words name; made for folders of millions."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES


def search_images(sources: Sequence[str]) -> list[str]:
    """Absolute paths of the images that a user's words name, each once: files, folders (with all below), patterns.

    A file that is named outright is returned whether or not it exists or looks like an image, so that reading
    it says what is wrong with it. Inside folders and patterns the order is natural (`2.png` before `10.png`), and
    hidden files and folders are passed over.

    Raises:
        UsageError: If a folder holds no image, or a pattern matches none; all of those are named.
    """
    found: dict[str, None] = {}
    empty = []
    for source in sources:
        if Path(source).is_dir():
            images = _in_order(_images_below(absolute(source)))
        elif searched_folder(source) is None:
            images = [absolute(source)]
        else:
            images = _in_order(_images_matching(source))
        if not images:
            empty.append(source)
        found.update(dict.fromkeys(images))
    if empty:
        raise UsageError(f"no images in: {', '.join(empty)}. Known: {', '.join(IMAGE_SUFFIXES)}")
    return list(found)


def searched_folder(source: str) -> str | None:
    """The folder that a folder or pattern is searched from, absolute; none for a file that is named outright."""
    path = Path(source)
    if path.is_dir():
        return absolute(path)
    if path.exists() or not glob.has_magic(source):
        return None
    return absolute(Path(*takewhile(lambda part: not glob.has_magic(part), path.parts)))


def absolute(path: str | Path) -> str:
    """The absolute path, `..` resolved by name, links kept as the user named them."""
    return os.path.abspath(path)  # noqa: PTH100, Path.absolute keeps `..`


def _images_below(folder: str) -> Iterator[str]:
    """Images in a folder and below, without asking the disk about each; links to folders are not followed."""
    try:
        entries = os.scandir(folder)
    except PermissionError:
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _images_below(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                yield entry.path


def _images_matching(pattern: str) -> set[str]:
    """Images that a pattern matches, and those in and below the folders that it matches."""
    images: set[str] = set()
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207, Path.glob takes no absolute pattern
        if os.path.isdir(match):  # noqa: PTH112, a million Path objects take their time
            images.update(_images_below(absolute(match)))
        elif match.lower().endswith(IMAGE_SUFFIXES):
            images.add(absolute(match))
    return images


def _in_order(images: Iterable[str]) -> list[str]:
    """Natural order, the same in every process: what counts as equal (`1.png` and `01.png`) by its letters."""
    return sorted(sorted(images), key=lambda path: re.sub("[0-9]+", _number_key, path.lower()))


def _number_key(number: re.Match[str]) -> str:
    """Digits so that text order is the order of their values: shorter before longer, both after the end of a text."""
    digits = number[0]
    value = digits.lstrip("0")
    return f"\0{len(value):04d}{value}{digits}\0"
