"""PASCAL VOC's tree, as VOC itself and as CVAT ("Segmentation mask") writes it.

```
JPEGImages/NAME.jpg   SegmentationClass/NAME.png   ImageSets/Segmentation/{train,val}.txt   [labelmap.txt: CVAT]
```
labelme's `labelme2voc` writes the same tree. With `labelmap.txt` (or a class list of `class_files.py`) that has the
classes; without one they are VOC's 21, and 255, the border of objects, does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd.datasets.class_files import has_class_list, read_class_list
from vpd.datasets.classes import ClassList, ColourList
from vpd.datasets.file_pairs import LABEL_SUFFIXES, named_below
from vpd.datasets.layout import Layout, present_folders
from vpd.datasets.name_lists import known_split, read_names
from vpd.datasets.pairs import Pair, PairSamples, Unpaired, refuse_unpaired
from vpd.datasets.sample_reader import PartReader
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import is_foreign

IMAGES, LISTS = "JPEGImages", "ImageSets/Segmentation"
LABELS = ("SegmentationClassPNG", "SegmentationClass")
"""Where the label pictures are; labelme2voc has arrays in the second, and pictures in the first."""
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_BORDER = (224, 224, 192)
_ALL = "default"
"""CVAT's name of the list of a task without subsets."""


class VocData(PairSamples):
    """Samples with `labels` from VOC's tree.

    Args:
        root: Folder with `JPEGImages/` and `SegmentationClass/` (or `SegmentationClassPNG/`).
        split: Name of a list in `ImageSets/Segmentation/`; CVAT's `default` is also called train.
        classes: Other names of the same classes.
        unpaired: What to do about names of the list without picture or label: refuse the folder, or leave them out.
        ignore_index: Label value, or values, that do not count; none = what the class list says, else 255.
        label_map: Class of each label value; none = what the class list says.
        reduce_zero_label: Label 0 does not count, and k means class k - 1.

    Raises:
        UsageError: If there is no such split, the class list is wrong, or files lack their partner.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        unpaired: Unpaired = "error",
        ignore_index: int | Sequence[int] | None = None,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool | None = None,
    ) -> None:
        self.root = Path(root)
        lists = _lists(self.root)
        split = known_split(self.root, lists, split)
        images = named_below(self.root / IMAGES, IMAGE_SUFFIXES)
        label_folder = next(self.root / name for name in LABELS if (self.root / name).is_dir())
        labels = named_below(label_folder, LABEL_SUFFIXES)
        listed = lists[split]
        # without a list what has labels counts: most pictures of VOC have none
        names = [entry.path for entry in read_names(listed)] if listed else sorted(labels)
        self.pairs = [Pair(name, images[name], labels[name]) for name in names if name in images and name in labels]
        self.unpaired = [
            f"{name}: no {folder}/{name}{end}"
            for name in names
            for folder, files, end in ((IMAGES, images, ".jpg"), (label_folder.name, labels, ".png"))
            if name not in files
        ]
        left_out = refuse_unpaired(self.root, split, self.unpaired, self.pairs, unpaired)
        has_options = not (label_map is None and reduce_zero_label is None)
        if has_class_list(self.root) or has_options or (classes is not None and len(classes) != len(VOC_CLASSES)):
            table: ClassList = read_class_list(
                self.root, classes, ignore_index, label_map=label_map, reduce_zero_label=reduce_zero_label
            )
            self.notes = (*left_out, *table.notes)
        else:
            table = _voc_table(classes or VOC_CLASSES, ignore_index)
            self.notes = (
                *left_out,
                "no class list, so the classes are VOC's 21",
            )
        self.classes = table.names
        self._reader = PartReader(classes=table)


def voc_colours(count: int) -> list[tuple[int, int, int]]:
    """Colours of VOC's palette: the bits of a number, spread over red, green and blue from the highest down."""
    colours = []
    for number in range(count):
        parts = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                parts[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
        colours.append((parts[0], parts[1], parts[2]))
    return colours


def _voc_table(names: Sequence[str], ignored: int | Sequence[int] | None) -> ColourList:
    return ColourList(
        names, voc_colours(len(names)), ignored_colours=[_BORDER], where="VOC", ignored=ignored, has_numbers=True
    )


def _lists(root: Path) -> dict[str, Path | None]:
    """The list of each split; none = all that has labels."""
    paths = sorted(path for path in (root / LISTS).glob("*.txt") if not is_foreign(path.name))
    found: dict[str, Path | None] = {path.stem: path for path in paths}
    if "train" not in found and _ALL in found:
        found["train"] = found.pop(_ALL)
    return found or {"train": None}


LAYOUT = Layout(
    parts=("labels",),
    signs="JPEGImages/ and SegmentationClass/ (VOC, CVAT)",
    is_here=lambda root: (root / IMAGES).is_dir() and bool(present_folders(root, LABELS)),
    splits=lambda root: [*_lists(root)],
    open=VocData,
)
