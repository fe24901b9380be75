"""Which image files a user's words name; made for folders of millions."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import is_foreign

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".ts"),
    *(".3gp", ".3g2", ".flv", ".ogv", ".mxf", ".asf", ".vob", ".mjpeg"),
)
ANIMATION_SUFFIXES = (".gif", ".apng")
"""Files that are clips: they are predicted where they are named, and left out of folders."""
_HOW_TO_READ = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "to read it: pip install pillow-heif"),
    ".avif": "to read it: pip install --upgrade pillow",
    **dict.fromkeys((*VIDEO_SUFFIXES, *ANIMATION_SUFFIXES), "a clip: name it to predict it"),
}
_MOST_KINDS = 12


class Found(NamedTuple):
    """What a user's words name."""

    images: list[str]
    """Absolute paths, each once."""
    left_out: Counter[str]
    """Kind of what lay in searched folders as well, such as `.txt` or `hidden` -> how many."""


def search_images(sources: Sequence[str]) -> list[str]:
    """The images of `find_images`."""
    return find_images(sources).images


def find_images(sources: Sequence[str], *, except_folder: str | Path | None = None) -> Found:
    """Images that a user's words name: files, folders (with all below), patterns.

    A file that is named outright is returned whether or not it exists or looks like an image, so that reading
    it says what is wrong with it. Inside folders and patterns the order is natural (`2.png` before `10.png`); hidden
    files and folders and those of other programs are left out. Folders that links lead to are searched once, under the
    name of the link, unless they are searched anyway.

    Args:
        sources: The words.
        except_folder: A folder that is passed over where it lies in one that is searched.

    Raises:
        UsageError: If a folder holds no image, or a pattern matches none; all of those are named.
    """
    found: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    empty = []
    passed_over = None if except_folder is None else _identity(except_folder)
    for source in sources:
        if not source.strip():  # as of a variable that is not set: not the folder that is current
            raise UsageError(
                "One of the images or folders to predict has an empty name. Give a file, folder or pattern"
            )
        if Path(source).is_dir():
            images = _in_order(_Walk(left_out, passed_over).images(absolute(source)))
        elif searched_folder(source) is None:
            images = [absolute(source)]
        else:
            images = _in_order(_images_matching(source, _Walk(left_out, passed_over)))
        if not images:
            empty.append(source)
        found.update(dict.fromkeys(images))
    left_out = +left_out  # without kinds that never came
    if empty:
        lay_there = f" Left out: {left_out_words(left_out)}." if left_out else ""
        raise UsageError(f"no images in: {', '.join(empty)}.{lay_there} Known: {', '.join(IMAGE_SUFFIXES)}")
    return Found(list(found), left_out)


def left_out_words(left_out: Counter[str]) -> str:
    """What was left out by kind and number, most first."""
    kinds = left_out.most_common(_MOST_KINDS)
    words = [f"{count} {kind}{f' ({_HOW_TO_READ[kind]})' if kind in _HOW_TO_READ else ''}" for kind, count in kinds]
    rest = len(left_out) - len(kinds)
    return ", ".join(
        [*words, *([f"{left_out.total() - sum(c for _, c in kinds)} of {rest} other kinds"] if rest else [])]
    )


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


class _Walk:
    """One search of folders, which enters none twice.

    Args:
        left_out: What is left out is added to it.
        passed_over: `_identity` of a folder that is passed over.
    """

    def __init__(self, left_out: Counter[str], passed_over: tuple[int, int] | None) -> None:
        self.left_out, self.passed_over = left_out, passed_over
        self._seen: set[tuple[int, int] | None] = set()

    def images(self, folder: str) -> Iterator[str]:
        """Images in a folder and below, without asking the disk about each."""
        links = [folder]
        while links:  # after all that is no link, so that what is found where does not depend on the disk's order
            found: list[str] = []
            for link in sorted(links):
                yield from self._images_below(link, found, is_link=link != folder)
            links = found

    def _images_below(self, folder: str, links: list[str], *, is_link: bool) -> Iterator[str]:
        """Images below a folder; links to other folders are added to `links`."""
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            try:
                identity = _identity(folder)
                if identity == self.passed_over:
                    continue
                if identity in self._seen:
                    self.left_out["link to a folder searched already"] += is_link
                    continue
                entries = os.scandir(folder)
            except OSError:
                self.left_out["unreadable folder"] += 1
                continue
            self._seen.add(identity)
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        self.left_out["hidden"] += 1
                    elif entry.is_dir(follow_symlinks=False):
                        if is_foreign(entry.name):
                            self.left_out[f"folder {entry.name}"] += 1
                        else:
                            waiting.append(entry.path)
                    elif entry.is_symlink() and entry.is_dir():
                        links.append(entry.path)
                    elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                        self.left_out[_kind(entry.name)] += 1
                    elif entry.is_file():
                        yield entry.path
                    else:
                        self.left_out["broken link" if entry.is_symlink() else "special file"] += 1


def _identity(folder: str | Path) -> tuple[int, int] | None:
    """What tells a folder from all others, whatever the path to it; none where there is no such folder."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _kind(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"  # noqa: PTH122, a million Path objects take their time


def _images_matching(pattern: str, walk: _Walk) -> Iterable[str]:
    """Images that a pattern matches, and those in and below the folders that it matches."""
    parts = Path(pattern).parts
    if "**" in parts:
        return _images_deep(parts, walk)
    images: set[str] = set()
    for match in glob.iglob(pattern):  # noqa: PTH207, Path.glob takes no absolute pattern
        if os.path.isdir(match):  # noqa: PTH112, a million Path objects take their time
            images.update(walk.images(absolute(match)))
        elif match.lower().endswith(IMAGE_SUFFIXES):
            images.add(absolute(match))
        else:
            walk.left_out[_kind(match)] += 1
    return images


def _images_deep(parts: tuple[str, ...], walk: _Walk) -> Iterator[str]:
    """Images that a pattern with `**` matches; not by `glob`, which walks in circles where links do."""
    place = parts.index("**")
    for start in glob.iglob(str(Path(*parts[:place]))):  # noqa: PTH207
        folder = absolute(start)
        inner = _Walk(Counter(), walk.passed_over)  # the pattern says itself what it leaves out
        for image in inner.images(folder):
            if _fits(os.path.relpath(image, folder).split(os.sep), parts[place:]):  # noqa: PTH206
                yield image
        walk.left_out["unreadable folder"] += inner.left_out["unreadable folder"]


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path, or a folder on the way to it, matches."""
    if not patterns:
        return True
    if patterns[0] == "**":
        return _fits(names, patterns[1:]) or (bool(names) and _fits(names[1:], patterns))
    return bool(names) and fnmatch(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def _in_order(images: Iterable[str]) -> list[str]:
    """Natural order, the same in every process: what counts as equal (`1.png` and `01.png`) by its letters."""
    return sorted(sorted(images), key=lambda path: re.sub("[0-9]+", _number_key, path.lower()))


def _number_key(number: re.Match[str]) -> str:
    """Digits so that text order is the order of their values: shorter before longer, both after the end of a text."""
    digits = number[0]
    value = digits.lstrip("0")
    return f"\0{len(value):04d}{value}{digits}\0"
