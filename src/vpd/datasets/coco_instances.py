"""COCO instance files as semantic segmentation: objects are painted on one label picture.

```
annotations/instances_train2017.json   train2017/000000000009.jpg        also with images/train2017/, images/train/
```
Where objects overlap, the smaller one is seen: small things lie before or on large ones more often than behind, and
would vanish otherwise. Crowds lie under all objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import field
from vpd.datasets.classes import ClassList
from vpd.datasets.coco_files import CocoPicture, find_annotations, picture_folder, read_coco, read_picture
from vpd.datasets.coco_masks import check_inside, decode_mask
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL

BACKGROUND = "background"
"""Name of the class of pixels without object."""


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

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and paint its objects.

        Raises:
            UsageError: If the picture cannot be read, has another size than annotated, or a segmentation is wrong.
        """
        picture, objects = self.items[index]
        image = read_picture(self._pictures, picture, self._path)
        labels = self._paint(json.loads(objects), picture)
        return Sample(picture.file_name.with_suffix("").as_posix(), image, labels=labels)

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
