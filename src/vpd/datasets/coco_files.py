"""Where COCO data sets keep annotations and pictures, and what their annotation files have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Exif
from vpd.datasets.annotations import field, inner_path, read_json
from vpd.datasets.sample_reader import read_pixels, told_turn
from vpd.errors import UsageError

Kind = Literal["panoptic", "instances"]


@dataclass(frozen=True)
class CocoPicture:
    """One picture of an annotation file."""

    file_name: Path
    """Below the folder of the pictures."""
    height: int
    """Pixels, as annotated."""
    width: int
    """Pixels, as annotated."""


@dataclass(frozen=True)
class CocoContent:
    """What an annotation file says, its annotations not yet looked at."""

    path: Path
    """The file."""
    pictures: dict[int, CocoPicture]
    """By image id."""
    classes: tuple[str, ...]
    """Names of the categories in the file's order."""
    places: dict[int, int]
    """Category id -> place among `classes`."""
    annotations: list[Any]
    """Records, as they stand."""


def annotation_files(root: Path, kind: Kind) -> dict[str, list[Path]]:
    """Annotation files by split: `{kind}_{split}.json`, also with a year, in `annotations/` or in the folder itself."""
    files: dict[str, list[Path]] = {}
    for folder in (root / "annotations", root):
        for path in sorted(folder.glob(f"{kind}_*.json")):
            split = re.sub(r"(20\d\d)?$", "", path.stem.removeprefix(f"{kind}_"))
            files.setdefault(split or path.stem.removeprefix(f"{kind}_"), []).append(path)
    return files


def find_annotations(root: Path, kind: Kind, split: str) -> Path:
    """The annotation file of a split.

    Raises:
        UsageError: If there is none, or more than one.
    """
    files = annotation_files(root, kind)
    if split not in files:
        present = ", ".join(files) or "none"
        raise UsageError(
            f"{root}: no split {split!r}; looked for annotations/{kind}_{split}.json and with a year, such as "
            f"{kind}_{split}2017.json. Splits there: {present}"
        )
    if len(files[split]) > 1:
        raise UsageError(f"{root}: several files for {split}: {', '.join(map(str, files[split]))}. Keep one of them")
    return files[split][0]


def find_folder(root: Path, what: str, candidates: list[str], first: Path) -> Path:
    """The folder that files lie in: the first with the first of them, else the first that is there.

    Args:
        root: Folder of the data set.
        what: What messages call the files.
        candidates: Folders below it; the last one counts only if it has the file.
        first: Path of a file below the folder.

    Raises:
        UsageError: If there is none.
    """
    for name in candidates:
        if (root / name / first).is_file():
            return root / name
    for name in candidates[:-1]:  # that the file is missing is said when it is read
        if (root / name).is_dir():
            return root / name
    raise UsageError(f"{root}: no folder of {what}; looked for {', '.join(dict.fromkeys(candidates))}")


def picture_folder(root: Path, content: CocoContent, kind: Kind, split: str) -> Path:
    """The folder of a split's pictures: `train2017/`, `images/train2017/`, `images/train/`, `train/` or `images/`.

    Raises:
        UsageError: If there is none, or no picture.
    """
    if not content.pictures:
        raise UsageError(f"{content.path}: has no image; the {split} split is empty")
    dated = content.path.stem.removeprefix(f"{kind}_")
    names = [dated, f"images/{dated}", f"images/{split}", split, "images"]
    return find_folder(root, f"pictures of {split}", names, next(iter(content.pictures.values())).file_name)


def read_coco(path: Path) -> CocoContent:
    """Read an annotation file and check its pictures and categories.

    Raises:
        UsageError: If it cannot be read, lacks something, or has an id twice.
    """
    content = read_json(path)
    pictures = read_pictures(content, path)
    names, places = [], {}
    for place, record in enumerate(field(content, "categories", list, str(path))):
        where = f"{path}, category {place}"
        category_id = field(record, "id", int, where)
        if category_id in places:
            raise UsageError(f"{where}: id {category_id} stands twice")
        places[category_id] = place
        names.append(field(record, "name", str, where))
    annotations = field(content, "annotations", list, str(path))
    return CocoContent(path, pictures, tuple(names), places, annotations)


def read_pictures(content: Any, path: Path, *, allow_same: bool = False) -> dict[int, CocoPicture]:
    """Pictures of an annotation file by their image id.

    Args:
        content: What the file holds.
        path: The file, for messages.
        allow_same: Let an id stand again where all else is the same, too.

    Raises:
        UsageError: If a record lacks something or leads out of the folder, or an id stands twice.
    """
    pictures: dict[int, CocoPicture] = {}
    for place, record in enumerate(field(content, "images", list, str(path))):
        where = f"{path}, image {place}"
        name = inner_path(field(record, "file_name", str, where), where)
        picture = CocoPicture(name, field(record, "height", int, where), field(record, "width", int, where))
        image_id = field(record, "id", int, where)
        if image_id in pictures and not (allow_same and pictures[image_id] == picture):
            raise UsageError(f"{where}: id {image_id} stands twice{', with different content' * allow_same}")
        pictures[image_id] = picture
    return pictures


def read_picture(
    folder: Path, picture: CocoPicture, annotations: Path, exif: Exif | None
) -> tuple[NDArray[np.uint8], int]:
    """Pixels `(H, W, 3)` of a picture that has the size its annotations are for, and its EXIF orientation.

    Args:
        folder: Folder of the pictures.
        picture: Which one.
        annotations: The file that has its size, for messages.
        exif: What is done about the orientation.

    Raises:
        UsageError: If it cannot be read, or has another size.
    """
    path = folder / picture.file_name
    pixels, turn = read_pixels(path, exif)
    if pixels.shape[:2] != (picture.height, picture.width):
        raise UsageError(
            f"{told_turn(path, turn, exif)}: picture size {pixels.shape[1]}x{pixels.shape[0]} differs from the "
            f"annotated {picture.width}x{picture.height} ({annotations})"
        )
    return pixels, turn
