"""Where COCO's annotation files lie, and what they have in common."""

from __future__ import annotations

import mmap
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vpd.datasets.annotations import field, read_json, whole_number
from vpd.datasets.classes import BACKGROUND
from vpd.datasets.coco_pictures import CocoPicture, Files, read_pictures
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import is_foreign
from vpd.tensors import IGNORE_LABEL

Kind = Literal["panoptic", "instances"]

BACKGROUND_NAMES = (BACKGROUND, "_background_", "__background__")
"""What categories of such pixels are called, in any case."""
IGNORE_NAMES = ("ignore", "_ignore_", "__ignore__")
"""What categories of pixels that do not count are called, in any case."""

BESIDE_PICTURES = "_annotations.coco.json"
"""Roboflow's file in each split's folder."""
_SPLIT = re.compile(r"(?<![a-z])(train|val|valid|validation|dev|test)(?![a-z])")
_MOST_FILES = 16
"""Where more JSON files than these lie together, they are no annotation files of whole splits."""


@dataclass(frozen=True)
class CocoContent:
    """What an annotation file says, its annotations not yet looked at."""

    path: Path
    """The file."""
    pictures: dict[int, CocoPicture]
    """By image id."""
    classes: tuple[str, ...]
    """Names of the classes: background where it is one, then the categories that are some, in the file's order."""
    labels: dict[int, int]
    """Category id -> label: place among `classes`, or 255 = ignored."""
    annotations: list[Any]
    """Records, as they stand."""
    notes: list[str]
    """What became of categories that are no classes, and how many entries of pictures are left out."""
    odd_pictures: list[str]
    """A line for each entry of a picture that cannot be used."""


class LeftOut:
    """Annotations of a file that cannot be used: each costs itself, and is told.

    Args:
        path: The file.
        what: What they are called, such as `of 9 annotations`.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.lines: list[str] = []
        """One for each."""
        self._path, self._what, self._reasons = path, what, Counter[str]()

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, told: str, reason: str) -> None:
        """Count one; `told` names it and says why, `reason` is what it has in common with others."""
        self.lines.append(f"{told}: left out")
        self._reasons[reason] += 1

    @property
    def notes(self) -> list[str]:
        """How many of them there are and why, in a line, or nothing."""
        reasons = ", ".join(f"{reason} ({count})" for reason, count in self._reasons.most_common())
        told = f"{len(self.lines)} {self._what} of {self._path.name} are left out: {reasons}"
        return [told] if self.lines else []


def annotation_files(root: Path, kind: Kind) -> dict[str, list[Path]]:
    """Annotation files by split.

    `{kind}_{split}.json`, also with a year, in `annotations/` or in the folder itself. For instances, where there is
    none: `{split}/_annotations.coco.json`, and files of any other name in the same two folders that begin like
    COCO's; their split is the word for one in their name, else train.
    """
    files: dict[str, list[Path]] = {}
    for folder in (root / "annotations", root):
        for path in sorted(folder.glob(f"{kind}_*.json")):
            split = re.sub(r"(20\d\d)?$", "", path.stem.removeprefix(f"{kind}_"))
            files.setdefault(split or path.stem.removeprefix(f"{kind}_"), []).append(path)
    if kind == "instances" and not files:
        files = _unnamed_files(root)
    for only in ("default", "Train", "TRAIN"):  # CVAT calls what is of no subset default
        if only in files and "train" not in files:
            files = {("train" if split == only else split): paths for split, paths in files.items()}
    return dict(sorted(files.items(), key=lambda item: (item[0] != "train", item[0].startswith("test"), item[0])))


def _unnamed_files(root: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in _files_beside_pictures(root):
        files.setdefault(path.parent.name, []).append(path)
    for path in sorted([*_loose_files(root / "annotations"), *_loose_files(root)]):
        words = set(_SPLIT.findall(path.stem.lower()))
        files.setdefault(words.pop() if len(words) == 1 else "train", []).append(path)
    return files


def _files_beside_pictures(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob(f"*/{BESIDE_PICTURES}")) if not is_foreign(path.parent.name)]


def _loose_files(folder: Path) -> list[Path]:
    """Files of instances of any name in a folder."""
    paths = [path for path in folder.glob("*.json") if not is_foreign(path.name)]
    if paths:  # one that is called as a picture beside it is of that picture alone, as labelme writes them
        pictures = {path.stem for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
        paths = [path for path in paths if path.stem not in pictures]
    return [path for path in paths if path.is_file() and _has_instances(path)] if len(paths) <= _MOST_FILES else []


def _has_instances(path: Path) -> bool:
    """Whether a file has COCO's keys, and annotations of objects; its text is only searched."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = [text.find(key) >= 0 for key in (b'"images"', b'"categories"', b'"category_id"', b'"annotations"')]
            return text[:4].lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in (b"{", b"") and all(found) and not _is_panoptic(text)
    except (OSError, ValueError):  # an empty file has no map
        return False


def _is_panoptic(text: mmap.mmap) -> bool:
    start = text.find(b'"annotations"')
    return text.find(b'"segments_info"', start, start + 2**16) >= 0


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


def file_notes(root: Path, path: Path) -> list[str]:
    """Which annotation file is read, where its name is not COCO's own, and which others are not."""
    name = path.relative_to(root).as_posix()
    is_named = path.stem.startswith("instances_")
    others = [*_files_beside_pictures(root), *_loose_files(root)] if is_named else []
    others = [other for other in others if not other.stem.startswith("instances_")]
    passed = ", ".join(sorted(other.relative_to(root).as_posix() for other in others))
    return [f"annotations: {name}" + (f"; not read: {passed}" if passed else "")] if passed or not is_named else []


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
    files = Files()
    for name in candidates:
        if files.has((root / name / first).as_posix()):
            return root / name
    for name in candidates[:-1]:  # that the file is missing is said when it is read
        if (root / name).is_dir():
            return root / name
    raise UsageError(f"{root}: no folder of {what}; looked for {', '.join(dict.fromkeys(candidates))}")


def picture_folders(path: Path, kind: Kind, split: str) -> list[str]:
    """Where the pictures of an annotation file may lie, below the data set's folder."""
    if path.name == BESIDE_PICTURES:
        return [split]
    dated = path.stem.removeprefix(f"{kind}_")
    return [dated, f"images/{dated}", f"images/{split}", split, "images", "JPEGImages", "data"]


def read_coco(path: Path, *, background: bool, split: str) -> CocoContent:
    """Read an annotation file and check its pictures and categories.

    Args:
        path: The file.
        background: Whether pixels without object are the first class; a category of them is that class then.
        split: Its name, for messages.

    Raises:
        UsageError: If it cannot be read, has no image, lacks something, or has an id twice.
    """
    content = read_json(path)
    pictures, odd = read_pictures(content, path)
    if not pictures:
        raise UsageError(f"{path}: has no image; the {split} split is empty")
    annotations = field(content, "annotations", list, str(path))
    classes, labels, notes = [BACKGROUND] if background else [], dict[int, int](), list[str]()
    if odd:
        notes.append(f"{len(odd)} of the images that {path.name} lists are left out: odd entries")
    categories = field(content, "categories", list, str(path))
    parents = _bare_parents(categories, annotations)
    for place, record in enumerate(categories):
        where = f"{path}, category {place}"
        category_id, name = number(record, "id"), field(record, "name", str, where)
        if category_id is None:
            raise UsageError(f"{where}: 'id' is missing or of the wrong type; it must be a whole number")
        if category_id in labels:
            raise UsageError(f"{where}: id {category_id} stands twice")
        if name.strip().lower() in IGNORE_NAMES:
            labels[category_id] = IGNORE_LABEL
            notes.append(f"category {name!r} is no class: its pixels are ignored")
        elif background and name.strip().lower() in BACKGROUND_NAMES:
            labels[category_id] = 0
        elif category_id in parents:
            labels[category_id] = IGNORE_LABEL
            notes.append(f"category {name!r} (id {category_id}) is no class: only others belong to it")
        else:
            labels[category_id] = len(classes)
            classes.append(name)
    return CocoContent(path, pictures, tuple(classes), labels, annotations, notes, odd)


def _bare_parents(categories: list[Any], annotations: list[Any]) -> set[int | None]:
    """Ids of categories that only stand above others: each is named as their supercategory, and has no annotation."""
    named = [record for record in categories if isinstance(record, dict)]
    parents = {
        number(record, "id")
        for record in named
        if any(other is not record and other.get("supercategory") == record.get("name") for other in named)
    }
    for record in annotations if parents else ():
        segments = record.get("segments_info") if isinstance(record, dict) else None
        for marked in [record, *segments] if isinstance(segments, list) else [record]:
            parents.discard(number(marked, "category_id"))
    return parents


def number(record: Any, key: str) -> int | None:
    """A whole number of a record, or none where there is something else."""
    return whole_number(record.get(key)) if isinstance(record, dict) else None
