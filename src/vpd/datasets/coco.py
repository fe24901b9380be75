"""COCO's annotation files as semantic segmentation: panoptic segments, or objects painted on one label picture.

```
annotations/panoptic_train2017.json   annotations/panoptic_train2017/000000000009.png   train2017/000000000009.jpg
panoptic_train.json                   panoptic/train/000000000009.png                   images/train/000000000009.jpg
annotations/instances_train2017.json                                                    likewise
```
Panoptic: a pixel of the PNG holds the number of its segment, R + 256 G + 65536 B; 0 = not labelled, which is ignored.
Crowds have the class of their category like all else.

Instances: where objects overlap, the smaller one is seen: small things lie before or on large ones more often than
behind, and would vanish otherwise. Crowds lie under all objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import field, inner_path
from vpd.datasets.classes import ClassList
from vpd.datasets.coco_files import (
    CocoPicture,
    Kind,
    annotation_files,
    find_annotations,
    find_folder,
    picture_folder,
    read_coco,
    read_picture,
)
from vpd.datasets.coco_masks import check_inside, decode_mask
from vpd.datasets.layout import Layout
from vpd.datasets.sample_reader import check_same_size, read_pixels, told_turn
from vpd.errors import UsageError
from vpd.files.decoding import decode_file, mode_words
from vpd.tensors import IGNORE_LABEL

BACKGROUND = "background"
"""Name of the class of pixels without object."""
_LARGEST_ID = 2**24 - 1


class CocoPanoptic(SampleSet):
    """Samples with `labels`; the classes are the names of the categories in the file's order.

    Args:
        root: Folder with `annotations/panoptic_{split}2017.json` or `panoptic_{split}.json`.
        split: `train`, `val`, ...: the name of the file without year.

    Raises:
        UsageError: If files are missing, an id stands twice, records contradict each other, or the split is empty.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        self.root = Path(root)
        path = find_annotations(self.root, "panoptic", split)
        content = read_coco(path)
        self._pictures = picture_folder(self.root, content, "panoptic", split)
        self.classes = ClassList(content.classes, where=f"{path}, categories").names
        self.items: list[tuple[CocoPicture, Path, NDArray[np.int64], NDArray[np.uint8]]] = []
        """Picture, panoptic PNG, and ids (sorted) and classes of its segments."""
        seen: set[int] = set()
        for place, record in enumerate(content.annotations):
            where = f"{path}, annotation {place}"
            image_id = field(record, "image_id", int, where)
            if image_id not in content.pictures:
                raise UsageError(f"{where}: image {image_id} is not among the images")
            if image_id in seen:
                raise UsageError(f"{where}: image {image_id} has an annotation already")
            seen.add(image_id)
            classes_of: dict[int, int] = {}
            for segment in field(record, "segments_info", list, where):
                number, category = field(segment, "id", int, where), field(segment, "category_id", int, where)
                if not 0 < number <= _LARGEST_ID or number in classes_of:
                    raise UsageError(f"{where}: segment id {number} stands twice, or is not 1..{_LARGEST_ID}")
                if category not in content.places:
                    raise UsageError(f"{where}: category {category} of segment {number} is not among the categories")
                classes_of[number] = content.places[category]
            ids = sorted(classes_of)
            png = inner_path(field(record, "file_name", str, where), where)
            classes = np.array([classes_of[number] for number in ids], dtype=np.uint8)
            self.items.append((content.pictures[image_id], png, np.array(ids, dtype=np.int64), classes))
        if not self.items:
            raise UsageError(f"{path}: has no annotation; the {split} split is empty")
        dated = path.stem.removeprefix("panoptic_")
        places = [f"annotations/{path.stem}", path.stem, f"panoptic/{dated}", f"panoptic/{split}", "panoptic"]
        self._segments_folder = find_folder(self.root, f"panoptic PNGs of {split}", places, self.items[0][1])
        if without := len(content.pictures) - len(seen):
            self.notes = (f"{without} of {len(content.pictures)} pictures of {path.name} have no annotation",)

    def __len__(self) -> int:
        return len(self.items)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (picture.file_name.as_posix() for picture, _, _, _ in self.items)

    def files(self) -> Iterable[Path]:
        """Pictures and panoptic PNGs."""
        places = (
            (self._pictures / picture.file_name, self._segments_folder / png) for picture, png, _, _ in self.items
        )
        return (path for pair in places for path in pair)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and the segments of its PNG.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a pixel's segment is not in the annotation.
        """
        picture, png, ids, classes = self.items[index]
        path = self._pictures / picture.file_name
        image, turn = read_pixels(path, self.exif)
        numbers = read_segment_ids(self._segments_folder / png)
        place = told_turn(path, turn, self.exif)
        check_same_size("panoptic", numbers, self._segments_folder / png, image.shape[:2], place)
        known = np.concatenate([[0], ids])
        meaning = np.concatenate([np.array([IGNORE_LABEL], dtype=np.uint8), classes])
        places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
        strange = known[places] != numbers
        if strange.any():
            row, column = np.argwhere(strange)[0]
            raise UsageError(
                f"{self._segments_folder / png}: segment {numbers[row, column]} at row {row}, column {column} is not "
                "in its annotation"
            )
        return Sample(picture.file_name.with_suffix("").as_posix(), image, labels=meaning[places], exif_turn=turn)


def read_segment_ids(path: Path) -> NDArray[np.int64]:
    """Number of each pixel's segment, `(H, W)`, 0..2^24 - 1, of a panoptic PNG.

    Raises:
        UsageError: If the file cannot be read or is not 8-bit RGB.
    """
    image, raw_mode = decode_file(path, ("PNG",))
    if image.mode != "RGB" or raw_mode != "RGB":
        what = f"{mode_words(image.mode)} ({raw_mode})"
        raise UsageError(f"{path}: panoptic PNGs have 8-bit RGB; this picture has {what}")
    return np.asarray(image).astype(np.int64) @ np.array([1, 256, 65536])


class CocoInstances(SampleSet):
    """Samples with `labels`.

    Args:
        root: Folder with `annotations/instances_{split}2017.json`, or without year.
        split: `train`, `val`, ...: the name of the file without year.
        background: What pixels without object are: `class`: class 0, called background, the categories follow;
            `ignore`: not counted, and pictures without any object are left out.
        crowd: What pixels of crowds (`iscrowd`: several objects outlined as one) are: `ignore`: not counted, since
            other things lie in between; `class`: their category.

    Raises:
        UsageError: If files are missing, an id stands twice, records contradict each other, or the split is empty.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        background: Literal["class", "ignore"] = "class",
        crowd: Literal["ignore", "class"] = "ignore",
    ) -> None:
        self.root = Path(root)
        for name, value in (("background", background), ("crowd", crowd)):
            if value not in ("class", "ignore"):
                raise UsageError(f"{name}={value!r}; choose class or ignore")
        path = find_annotations(self.root, "instances", split)
        has_background = background == "class"
        content = read_coco(path)
        if has_background and BACKGROUND in content.classes:
            raise UsageError(f"{path}: has a category {BACKGROUND!r} of its own; set background=ignore")
        first = (BACKGROUND,) if has_background else ()
        self.classes = ClassList(first + content.classes, where=f"{path}, categories").names
        self._pictures = picture_folder(self.root, content, "instances", split)
        self._ignores_crowds = crowd == "ignore"
        self._empty = 0 if has_background else IGNORE_LABEL
        objects: dict[int, list[tuple[int, int, Any, bool]]] = {image_id: [] for image_id in content.pictures}
        seen: set[int] = set()
        for place, record in enumerate(content.annotations):
            where = f"{path}, annotation {place}"
            number, image_id = field(record, "id", int, where), field(record, "image_id", int, where)
            category = field(record, "category_id", int, where)
            if number in seen:
                raise UsageError(f"{where}: id {number} stands twice")
            seen.add(number)
            if image_id not in content.pictures:
                raise UsageError(f"{where}: image {image_id} is not among the images")
            if category not in content.places:
                raise UsageError(f"{where}: category {category} is not among the categories")
            is_crowd = bool(record.get("iscrowd"))
            label = IGNORE_LABEL if is_crowd and crowd == "ignore" else content.places[category] + len(first)
            segmentation = field(record, "segmentation", (list, dict), where)
            objects[image_id].append((number, label, segmentation, is_crowd))
        self.items: list[tuple[CocoPicture, bytes]] = [
            # as text: the numbers of a million polygons would take several times the memory
            (picture, json.dumps(objects.pop(image_id)).encode())
            for image_id, picture in content.pictures.items()
            if has_background or objects[image_id]
        ]
        """Picture, and number, label, segmentation and crowd mark of each of its objects as JSON."""
        if not self.items:
            raise UsageError(f"{path}: has no picture with an object; the {split} split is empty")
        if without := len(content.pictures) - len(self.items):
            self.notes = (f"{without} of {len(content.pictures)} pictures of {path.name} have no object: left out",)
        self._path = path

    def __len__(self) -> int:
        return len(self.items)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (picture.file_name.as_posix() for picture, _ in self.items)

    def files(self) -> Iterable[Path]:
        """The pictures."""
        return (self._pictures / picture.file_name for picture, _ in self.items)

    def reading(self) -> dict[str, Any]:
        """What is ignored."""
        return {"ignored": "crowds (crowd=class counts them)"} if self._ignores_crowds else {}

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and paint its objects.

        Raises:
            UsageError: If the picture cannot be read, has another size than annotated, or a segmentation is wrong.
        """
        picture, objects = self.items[index]
        image, turn = read_picture(self._pictures, picture, self._path, self.exif)
        labels = self._paint(json.loads(objects), picture)
        return Sample(picture.file_name.with_suffix("").as_posix(), image, labels=labels, exif_turn=turn)

    def _paint(self, objects: list[Any], picture: CocoPicture) -> NDArray[np.uint8]:
        size = (picture.height, picture.width)
        labels = np.full(size, self._empty, dtype=np.uint8)
        seen_area = np.full(size, np.iinfo(np.int64).max, dtype=np.int64)  # pixels of the object seen at a pixel
        for number, label, segmentation, is_crowd in objects:
            name = f"{self._path}, annotation with id {number} on {picture.file_name}"
            mask = decode_mask(segmentation, height=picture.height, width=picture.width, name=name)
            check_inside(segmentation, height=picture.height, width=picture.width, name=name)
            area = np.iinfo(np.int64).max - 1 if is_crowd else int(mask.sum())
            is_seen = mask & (area < seen_area)
            labels[is_seen], seen_area[is_seen] = label, area
        return labels


def _layout(kind: Kind, reader: type[SampleSet]) -> Layout:
    return Layout(
        parts=("labels",),
        signs=f"annotations/{kind}_SPLIT.json",
        is_here=lambda root: bool(annotation_files(root, kind)),
        splits=lambda root: list(annotation_files(root, kind)),
        open=reader,
    )


LAYOUTS = {"coco_panoptic": _layout("panoptic", CocoPanoptic), "coco_instances": _layout("instances", CocoInstances)}
