"""COCO's instance annotations as semantic segmentation: objects painted on one label picture; and COCO's layouts.

```
annotations/instances_train2017.json    train2017/000000000009.jpg         COCO; also images/train2017/, images/, ...
annotations/instances_default.json      images/default/a.jpg               CVAT
train/_annotations.coco.json            train/a.jpg                        Roboflow
result.json, annotations.json, ...      images/a.jpg, JPEGImages/a.jpg     Label Studio, labelme2coco, others
```
Where objects overlap, the smaller one is seen: small things lie before or on large ones more often than behind, and
would vanish otherwise. Crowds lie under all objects.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import whole_number
from vpd.datasets.classes import WITHOUT_OBJECT, ClassList
from vpd.datasets.coco_files import (
    CocoContent,
    Kind,
    LeftOut,
    annotation_files,
    file_notes,
    find_annotations,
    picture_folders,
    read_coco,
)
from vpd.datasets.coco_masks import decode_mask, outline_fault
from vpd.datasets.coco_panoptic import CocoPanoptic
from vpd.datasets.coco_pictures import CocoPicture, find_pictures, read_picture
from vpd.datasets.layout import Layout
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL

Object = tuple[str, int, Any, bool]
"""Name for messages, label, segmentation, and whether it is a crowd."""


class CocoInstances(SampleSet):
    """Samples with `labels`.

    An annotation that cannot be used (without outline, as a rectangle is; of an image or a category that the file does
    not list; with an id that stands twice; with an impossible outline) is left out; `unpaired` and `notes` tell of it.
    A category called background is the class of pixels without object; one called ignore is ignored; one that only
    others belong to, without annotation, is no class.

    Args:
        root: Folder with `annotations/instances_{split}2017.json`, or without year; or the folder that Roboflow, CVAT,
            Label Studio or labelme2coco exported.
        split: `train`, `val`, ...: the name of the file without year, or of Roboflow's folder.
        background: What pixels without object are: `class`: class 0, called background, the categories follow;
            `ignore`: not counted, and pictures without any object are left out.
        crowd: What pixels of crowds (`iscrowd`: several objects outlined as one) are: `ignore`: not counted, since
            other things lie in between; `class`: their category.
        unpaired: What to do about pictures that are not there: refuse the data set, or leave them out.

    Raises:
        UsageError: If files are missing, no annotation can be used, or the split is empty.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        background: Literal["class", "ignore"] = "class",
        crowd: Literal["ignore", "class"] = "ignore",
        unpaired: Unpaired = "error",
    ) -> None:
        self.root = Path(root)
        for name, value in (("background", background), ("crowd", crowd)):
            if value not in ("class", "ignore"):
                raise UsageError(f"{name}={value!r}; choose class or ignore")
        self._path = path = find_annotations(self.root, "instances", split)
        has_background = background == "class"
        content = read_coco(path, background=has_background, split=split)
        self.classes = ClassList(content.classes, where=f"{path}, categories").names
        self._ignores_crowds = crowd == "ignore"
        self._empty = 0 if has_background else IGNORE_LABEL
        left_out = LeftOut(path, f"of {len(content.annotations)} annotations")
        objects, crowds = _objects(content, left_out, ignores_crowds=crowd == "ignore")
        if left_out and len(left_out) == len(content.annotations):
            first = [*content.odd_pictures, *left_out.lines][0]
            told = f"{path}: has no annotation that can be used. {left_out.notes[0]}. First: {first}"
            raise UsageError(f"{told}. Segmentation needs outlines: draw polygons or masks")
        wanted = {
            image_id: picture for image_id, picture in content.pictures.items() if has_background or objects[image_id]
        }
        if not wanted:
            raise UsageError(f"{path}: has no picture with an object; the {split} split is empty")
        folders = picture_folders(path, "instances", split)
        found = find_pictures(wanted, self.root, folders, path, what=f"pictures of {split}")
        self.items: list[tuple[CocoPicture, bytes]] = [
            # packed: the numbers of a million polygons would take several times the memory
            (picture, marshal.dumps(objects.pop(image_id)))
            for image_id, picture in found.pictures.items()
        ]
        """Picture, and its `Object`s as Python packs plain values."""
        refuse_unpaired(self.root, split, found.missing, self.items, unpaired)
        self.unpaired = [*content.odd_pictures, *found.missing, *left_out.lines]
        self.notes = [*file_notes(self.root, path), *content.notes, *found.notes, *left_out.notes]
        if crowds:
            total = len(content.annotations)
            self.notes.append(f"{crowds} of {total} annotations of {path.name} are crowds: ignored, unless crowd=class")
        if without := len(content.pictures) - len(wanted):
            self.notes.append(f"{without} of {len(content.pictures)} pictures of {path.name} have no object: left out")

    def __len__(self) -> int:
        return len(self.items)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (picture.file_name.as_posix() for picture, _ in self.items)

    def files(self) -> Iterable[Path]:
        """The pictures."""
        return (picture.path for picture, _ in self.items)

    def reading(self) -> dict[str, Any]:
        """What is ignored."""
        crowds = {"ignored": "crowds (crowd=class counts them)"} if self._ignores_crowds else {}
        return crowds if self._empty == 0 else {**crowds, "ignored_words": WITHOUT_OBJECT}

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and paint its objects; one whose packed run lengths are wrong is left out.

        Raises:
            UsageError: If the picture cannot be read or has another size than annotated.
        """
        picture, objects = self.items[index]
        image, turn = read_picture(picture, self._path, self.exif)
        labels, left_out = self._paint(marshal.loads(objects), picture)  # noqa: S302 (packed above, from JSON)
        name = picture.file_name.with_suffix("").as_posix()
        return Sample(name, image, labels=labels, exif_turn=turn, left_out=tuple(left_out))

    def _paint(self, objects: list[Object], picture: CocoPicture) -> tuple[NDArray[np.uint8], list[str]]:
        """Labels, and why objects are left out."""
        left_out = list[str]()
        size = (picture.height, picture.width)
        labels = np.full(size, self._empty, dtype=np.uint8)
        seen_area = np.full(size, np.iinfo(np.int64).max, dtype=np.int64)  # pixels of the object seen at a pixel
        for name, label, segmentation, is_crowd in objects:
            try:
                mask = self._decode(name, segmentation, picture)
            except UsageError as error:
                left_out.append(str(error))
                continue
            area = np.iinfo(np.int64).max - 1 if is_crowd else int(mask.sum())
            is_seen = mask & (area < seen_area)
            labels[is_seen], seen_area[is_seen] = label, area
        return labels, left_out

    def _decode(self, name: str, segmentation: Any, picture: CocoPicture) -> NDArray[np.bool_]:
        where = f"{self._path}, {name} on {picture.file_name}"
        return decode_mask(segmentation, height=picture.height, width=picture.width, name=where)


def _objects(content: CocoContent, left_out: LeftOut, *, ignores_crowds: bool) -> tuple[dict[int, list[Object]], int]:
    """Objects of each image that can be painted, and how many of them are ignored crowds."""
    objects: dict[int, list[Object]] = {image_id: [] for image_id in content.pictures}
    seen: set[object] = set()
    crowds = 0
    for place, record in enumerate(content.annotations):
        told, reason = _fault(record, place, content, seen)
        if reason:
            left_out.add(told, reason)
            continue
        is_crowd = bool(record.get("iscrowd"))
        crowds += is_crowd and ignores_crowds
        category, image_id = whole_number(record["category_id"]), whole_number(record["image_id"])
        label = IGNORE_LABEL if is_crowd and ignores_crowds else content.labels[category or 0]
        objects[image_id or 0].append((_name(record, place), label, record["segmentation"], is_crowd))
    return objects, crowds


def _name(record: dict[str, Any], place: int) -> str:
    return f"annotation {place} with id {str(record.get('id'))[:50]}"


def _fault(record: Any, place: int, content: CocoContent, seen: set[object]) -> tuple[str, str]:
    """What is wrong with an annotation, by name and in general; empty = nothing is."""
    if not isinstance(record, dict):
        return f"{content.path}, annotation {place}: {str(record)[:50]!r} is no annotation", "no objects"
    number, image_id, category = record.get("id"), record.get("image_id"), record.get("category_id")
    image_number, category_number = whole_number(image_id), whole_number(category)
    picture = None if image_number is None else content.pictures.get(image_number)
    where = f"{content.path}, {_name(record, place)}"
    if picture is None:
        return f"{where}: image {str(image_id)[:50]} is not among the images", "image not in the file"
    where = f"{where} on {picture.file_name}"
    if category_number is None or category_number not in content.labels:
        return f"{where}: category {str(category)[:50]} is not among the categories", "category not in the file"
    if isinstance(number, (int, str)):
        if number in seen:
            return f"{where}: the id stands twice", "id stands twice"
        seen.add(number)
    segmentation = record.get("segmentation")
    if not segmentation or segmentation == [[]]:
        told = f"{where}: 'segmentation' is empty or missing"
        if record.get("bbox"):
            return f"{told}; a rectangle (bbox) is no outline", "rectangle without outline"
        return told, "no outline"
    if fault := outline_fault(segmentation, height=picture.height, width=picture.width, name=where):
        return fault, "impossible outline"
    return "", ""


def _layout(kind: Kind, signs: str, reader: type[SampleSet]) -> Layout:
    return Layout(
        parts=("labels",),
        signs=signs,
        is_here=lambda root: bool(annotation_files(root, kind)),
        splits=lambda root: list(annotation_files(root, kind)),
        open=reader,
    )


_INSTANCES = "annotations/instances_SPLIT.json, SPLIT/_annotations.coco.json, or a JSON file with COCO's keys"
LAYOUTS = {
    "coco_panoptic": _layout("panoptic", "annotations/panoptic_SPLIT.json", CocoPanoptic),
    "coco_instances": _layout("instances", _INSTANCES, CocoInstances),
}
