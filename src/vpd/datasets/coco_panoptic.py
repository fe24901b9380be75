"""COCO panoptic files as semantic segmentation: every segment's pixels get the class of its category.

```
annotations/panoptic_train2017.json   annotations/panoptic_train2017/000000000009.png   train2017/000000000009.jpg
panoptic_train.json                   panoptic/train/000000000009.png                   images/train/000000000009.jpg
```
A pixel of the PNG holds the number of its segment, R + 256 G + 65536 B; 0 = not labelled, which is ignored. Crowds
have the class of their category like all else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import field, inner_path
from vpd.datasets.classes import ClassList
from vpd.datasets.coco_files import CocoPicture, find_annotations, find_folder, picture_folder, read_coco
from vpd.datasets.label_pairs import check_same_size
from vpd.errors import UsageError
from vpd.files.decoding import decode_file, mode_words
from vpd.files.images import read_image
from vpd.tensors import IGNORE_LABEL

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

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and the segments of its PNG.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a pixel's segment is not in the annotation.
        """
        picture, png, ids, classes = self.items[index]
        path = self._pictures / picture.file_name
        image = np.array(read_image(path))
        numbers = read_segment_ids(self._segments_folder / png)
        check_same_size("panoptic", numbers, self._segments_folder / png, image.shape[:2], path)
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
        return Sample(picture.file_name.with_suffix("").as_posix(), image, labels=meaning[places])


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
