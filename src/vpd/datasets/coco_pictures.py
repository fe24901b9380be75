"""Pictures that COCO's annotation files name: which of them are there, and where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Exif
from vpd.datasets.annotations import field, path_or_tail, whole_number
from vpd.datasets.sample_reader import read_pixels, told_turn
from vpd.errors import UsageError


@dataclass(frozen=True)
class CocoPicture:
    """One picture of an annotation file."""

    file_name: Path
    """Below the folder of the pictures."""
    height: int
    """Pixels, as annotated."""
    width: int
    """Pixels, as annotated."""
    is_elsewhere: bool = False
    """Whether the annotation file has a path or an address that leads out of the data; `file_name` is its tail."""
    path: Path = Path()
    """The file, once it was looked for."""


@dataclass(frozen=True)
class FoundPictures:
    """What `find_pictures` found."""

    pictures: dict[int, CocoPicture]
    """Those that are there, with their paths, by image id."""
    missing: list[str]
    """A line for each that is not."""
    notes: list[str]
    """What a report should say."""


class Files:
    """Which files there are below some folders, each of which is listed once."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Whether there is a file of this path, with slashes."""
        folder, _, name = path.rpartition("/")
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))  # noqa: PTH208 (a path for each takes long)
            except OSError:
                self._names[folder] = frozenset()
        # on some systems another spelling of a name opens the file, too
        return name in self._names[folder] or (bool(self._names[folder]) and Path(path).is_file())


def read_pictures(content: Any, path: Path) -> tuple[dict[int, CocoPicture], list[str]]:
    """Pictures of an annotation file by their image id, not yet looked for; and a line for each entry that is none.

    An entry that stands again counts once. One that lacks something costs itself; where two share an
    id, nobody knows whose the annotations are, and both are left out.

    Args:
        content: What the file holds.
        path: The file, for messages.

    Raises:
        UsageError: If no entry can be used though there are some.
    """
    pictures: dict[int, CocoPicture] = {}
    odd, twice = list[str](), set[int]()
    for place, record in enumerate(field(content, "images", list, str(path))):
        where = f"{path}, image {place}"
        try:
            image_id, picture = _read_picture(record, where)
        except UsageError as error:
            odd.append(str(error))
            continue
        if pictures.setdefault(image_id, picture) != picture:
            odd.append(f"{where}: id {image_id} stands twice, with different content, so neither is used")
            twice.add(image_id)
    pictures = {image_id: picture for image_id, picture in pictures.items() if image_id not in twice}
    if odd and not pictures:
        raise UsageError(odd[0])
    return pictures, [f"{line}: left out" for line in odd]


def _read_picture(record: Any, where: str) -> tuple[int, CocoPicture]:
    """Id and picture of an entry."""
    name, is_elsewhere = path_or_tail(field(record, "file_name", str, where), where)
    image_id, height, width = (whole_number(record.get(key)) for key in ("id", "height", "width"))
    if image_id is None or height is None or width is None:
        wrong = next(key for key in ("id", "height", "width") if whole_number(record.get(key)) is None)
        raise UsageError(f"{where}: {wrong!r} is missing or of the wrong type; it must be a whole number")
    return image_id, CocoPicture(name, height, width, is_elsewhere)


def find_pictures(
    pictures: Mapping[int, CocoPicture], root: Path, folders: Sequence[str], annotations: Path, *, what: str
) -> FoundPictures:
    """Look for pictures in the folder of them, else below the data set's folder and the annotation file's.

    The folder is the first that has any of them. Of paths and addresses that lead out of the data set, and of all where
    none is found as it stands, as much of the end as is found in a folder counts; nothing outside is opened.

    Args:
        pictures: By image id.
        root: Folder of the data set.
        folders: Where the pictures may lie, below it.
        annotations: The file that names them.
        what: What messages call them.

    Raises:
        UsageError: If none of them is there.
    """
    files = Files()
    beside = annotations.parent
    places = list(dict.fromkeys([*(str(root / name) for name in folders), str(root), str(beside)]))
    inner = [picture for picture in pictures.values() if not picture.is_elsewhere]
    home = next((place for picture in inner if (place := _home(files, places, picture.file_name))), None)
    places = [home, *(place for place in places if place != home)] if home else places
    literal = list(dict.fromkeys([place for place in (home, str(root), str(beside)) if place]))
    paths: dict[int, tuple[str, str]] = {}
    for image_id, picture in pictures.items():
        if picture.is_elsewhere or home is None:
            found = _first(files, places, _tails(picture.file_name))
        else:
            found = _first(files, literal, _spellings(picture.file_name.as_posix()))
        if found:
            paths[image_id] = found
    if not paths:
        names = ", ".join(dict.fromkeys(folders))
        first = next(iter(pictures.values())).file_name
        raise UsageError(f"{root}: no folder of {what}; looked for {names}, and for {first} in the folder itself")
    shown = home or next(iter(paths.values()))[0]
    moved = Counter(paths[image_id] for image_id in paths if pictures[image_id].is_elsewhere or home is None)
    there: dict[int, CocoPicture] = {}
    missing: list[str] = []
    for image_id, picture in pictures.items():
        place, name = paths.get(image_id, ("", ""))
        if not name:
            out = "; the path in the file leads out of the data folder" if picture.is_elsewhere else ""
            wanted = picture.file_name.name if picture.is_elsewhere else picture.file_name
            missing.append(f"{annotations}, image {image_id}: no {shown}/{wanted}{out}")
        elif moved[place, name] > 1:
            which = f"{moved[place, name]} images have a path that ends in {name}"
            missing.append(f"{annotations}, image {image_id}: {which}; which of them is {place}/{name}?")
        else:
            there[image_id] = replace(picture, file_name=Path(name), path=Path(place, name))
    notes = [f"{len(missing)} of {len(pictures)} pictures of {annotations.name} are not there: left out"]
    notes = notes if missing else []
    if number := sum(count for count in moved.values() if count == 1):
        where = f"{number} of {len(pictures)} pictures of {annotations.name} are not where it has them"
        notes.append(f"{where}: found by the last part of their path")
    return FoundPictures(there, missing, notes)


def _home(files: Files, places: Iterable[str], name: Path) -> str | None:
    found = _first(files, places, _spellings(name.as_posix()))
    return found[0] if found else None


def _spellings(name: str) -> list[str]:
    """A name as it stands, and as an address spells it (`my%20cup.jpg`)."""
    return [name, unquote(name)] if "%" in name and ".." not in unquote(name) else [name]


def _tails(path: Path) -> Iterable[str]:
    """Ends of a path, longest first."""
    return ("/".join(path.parts[start:]) for start in range(len(path.parts)))


def _first(files: Files, places: Iterable[str], names: Iterable[str]) -> tuple[str, str] | None:
    """Place and name of the first file that is there."""
    return next(((place, name) for name in names for place in places if files.has(f"{place}/{name}")), None)


def read_picture(picture: CocoPicture, annotations: Path, exif: Exif | None) -> tuple[NDArray[np.uint8], int]:
    """Pixels `(H, W, 3)` of a picture that has the size its annotations are for, and its EXIF orientation.

    Args:
        picture: Which one.
        annotations: The file that has its size, for messages.
        exif: What is done about the orientation.

    Raises:
        UsageError: If it cannot be read, or has another size.
    """
    pixels, turn = read_pixels(picture.path, exif)
    if pixels.shape[:2] != (picture.height, picture.width):
        raise UsageError(
            f"{told_turn(picture.path, turn, exif)}: picture size {pixels.shape[1]}x{pixels.shape[0]} differs from the "
            f"annotated {picture.width}x{picture.height} ({annotations})"
        )
    return pixels, turn
