"""COCO's panoptic annotations as semantic segmentation.

```
annotations/panoptic_train2017.json   annotations/panoptic_train2017/000000000009.png   train2017/000000000009.jpg
panoptic_train.json                   panoptic/train/000000000009.png                   images/train/000000000009.jpg
```
A pixel of the PNG holds the number of its segment, R + 256 G + 65536 B; 0 = not labelled, which is ignored. Crowds have
the class of their category like all else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import inner_path
from vpd.datasets.classes import ClassList
from vpd.datasets.coco_files import LeftOut, find_annotations, find_folder, number, picture_folders, read_coco
from vpd.datasets.coco_pictures import CocoPicture, Files, find_pictures
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.datasets.sample_reader import check_same_size, read_pixels, told_turn
from vpd.errors import UsageError
from vpd.files.decoding import decode_file, mode_words
from vpd.tensors import IGNORE_LABEL

_LARGEST_ID = 2**24 - 1


class CocoPanoptic(SampleSet):
    """Samples with `labels`; the classes are the names of the categories in the file's order.

    Annotations of images that the file does not list, second ones of one image, and segments without category are left
    out; the pixels of such segments are ignored. `unpaired` and `notes` tell of them.

    Args:
        root: Folder with `annotations/panoptic_{split}2017.json` or `panoptic_{split}.json`.
        split: `train`, `val`, ...: the name of the file without year.
        unpaired: What to do about pictures and PNGs that are not there: refuse the data set, or leave them out.

    Raises:
        UsageError: If files are missing, records lack something, or the split is empty.
    """

    def __init__(self, root: str | Path, split: str, *, unpaired: Unpaired = "error") -> None:
        self.root = Path(root)
        path = find_annotations(self.root, "panoptic", split)
        content = read_coco(path, background=False, split=split)
        self.classes = ClassList(content.classes, where=f"{path}, categories").names
        left_out = LeftOut(path, "annotations or segments")
        named: dict[int, tuple[Path, NDArray[np.int64], NDArray[np.uint8]]] = {}
        for place, record in enumerate(content.annotations):
            where = f"{path}, annotation {place}"
            image_id = number(record, "image_id")
            if image_id is None or image_id not in content.pictures:
                left_out.add(f"{where}: image {image_id} is not among the images", "image not in the file")
            elif image_id in named:
                left_out.add(f"{where}: image {image_id} has an annotation already", "second of an image")
            elif not isinstance(record.get("file_name"), str) or not isinstance(record.get("segments_info"), list):
                left_out.add(f"{where}: lacks 'file_name' or 'segments_info'", "without file_name or segments_info")
            else:
                classes_of = _classes_of(record["segments_info"], content.labels, where, left_out)
                ids = np.array(sorted(classes_of), dtype=np.int64)
                classes = np.array([classes_of[segment] for segment in sorted(classes_of)], dtype=np.uint8)
                named[image_id] = (inner_path(record["file_name"], where), ids, classes)
        if not named:
            raise UsageError(f"{path}: has no annotation; the {split} split is empty")
        wanted = {image_id: content.pictures[image_id] for image_id in named}
        places = picture_folders(path, "panoptic", split)
        pictures = find_pictures(wanted, self.root, places, path, what=f"pictures of {split}")
        dated = path.stem.removeprefix("panoptic_")
        folders = [f"annotations/{path.stem}", path.stem, f"panoptic/{dated}", f"panoptic/{split}", "panoptic"]
        folder = find_folder(self.root, f"panoptic PNGs of {split}", folders, next(iter(named.values()))[0])
        files, missing = Files(), [*pictures.missing]
        self.items: list[tuple[CocoPicture, Path, NDArray[np.int64], NDArray[np.uint8]]] = []
        """Picture, panoptic PNG, and ids (sorted) and classes of its segments."""
        for image_id, (png, ids, classes) in named.items():
            if not files.has((folder / png).as_posix()):
                missing.append(f"{path}, image {image_id}: no {folder / png}")
            elif image_id in pictures.pictures:
                self.items.append((pictures.pictures[image_id], folder / png, ids, classes))
        refuse_unpaired(self.root, split, missing, self.items, unpaired)
        self.unpaired = [*content.odd_pictures, *missing, *left_out.lines]
        self.notes = [*content.notes, *pictures.notes, *left_out.notes]
        if without := len(missing) - len(pictures.missing):
            self.notes.append(f"{without} of {len(named)} panoptic PNGs of {path.name} are not there: left out")
        if without := len(content.pictures) - len(named):
            self.notes.append(f"{without} of {len(content.pictures)} pictures of {path.name} have no annotation")

    def __len__(self) -> int:
        return len(self.items)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (picture.file_name.as_posix() for picture, _, _, _ in self.items)

    def files(self) -> Iterable[Path]:
        """Pictures and panoptic PNGs."""
        return (path for picture, png, _, _ in self.items for path in (picture.path, png))

    def reading(self) -> dict[str, Any]:
        """What is ignored, in words."""
        return {"ignored_words": "pixels without segment, or of a category that is no class (see the notes)"}

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and the segments of its PNG.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a pixel's segment is not in the annotation.
        """
        picture, png, ids, classes = self.items[index]
        image, turn = read_pixels(picture.path, self.exif)
        numbers = read_segment_ids(png)
        check_same_size("panoptic", numbers, png, image.shape[:2], told_turn(picture.path, turn, self.exif))
        known = np.concatenate([[0], ids])
        meaning = np.concatenate([np.array([IGNORE_LABEL], dtype=np.uint8), classes])
        places = np.searchsorted(known, numbers).clip(max=len(known) - 1)
        strange = known[places] != numbers
        if strange.any():
            row, column = np.argwhere(strange)[0]
            raise UsageError(
                f"{png}: segment {numbers[row, column]} at row {row}, column {column} is not in its annotation"
            )
        return Sample(picture.file_name.with_suffix("").as_posix(), image, labels=meaning[places], exif_turn=turn)


def _classes_of(segments: list[Any], labels: dict[int, int], where: str, left_out: LeftOut) -> dict[int, int]:
    """Class of each segment; ignored where it has none."""
    classes_of: dict[int, int] = {}
    for segment in segments:
        segment_id, category = number(segment, "id"), number(segment, "category_id")
        if segment_id is None or not 0 < segment_id <= _LARGEST_ID or segment_id in classes_of:
            told = f"{where}: segment id {segment_id} stands twice, or is not 1..{_LARGEST_ID}"
            left_out.add(told, "segment id twice or none")
        elif category is None or category not in labels:
            told = f"{where}: category {category} of segment {segment_id} is not among the categories"
            left_out.add(told, "category not in the file")
            classes_of[segment_id] = IGNORE_LABEL
        else:
            classes_of[segment_id] = labels[category]
    return classes_of


def read_segment_ids(path: Path) -> NDArray[np.int64]:
    """Number of each pixel's segment, `(H, W)`, 0..2^24 - 1, of a panoptic PNG.

    Raises:
        UsageError: If the file cannot be read or is not 8-bit RGB.
    """
    image, raw_mode, _ = decode_file(path, ("PNG",))
    if image.mode != "RGB" or raw_mode != "RGB":
        what = f"{mode_words(image.mode)} ({raw_mode})"
        raise UsageError(f"{path}: panoptic PNGs have 8-bit RGB; this picture has {what}")
    return np.asarray(image).astype(np.int64) @ np.array([1, 256, 65536])
