"""ADE20K SceneParsing (ADEChallengeData2016): 150 classes.

```
images/training/ADE_train_00000001.jpg        images/validation/ADE_val_00000001.jpg         split train, val
annotations/training/ADE_train_00000001.png   annotations/validation/ADE_val_00000001.png
```
In the label files 0 means other things, which are ignored, and k is class k - 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vpd.datasets.annotations import shipped_json
from vpd.datasets.class_files import has_class_list
from vpd.datasets.classes import LabelTable
from vpd.datasets.layout import Layout, present_folders
from vpd.datasets.pairs import PairSamples, Unpaired, match_pairs, named_files, refuse_unpaired
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError
from vpd.metrics.segmentation import reduce_zero_label
from vpd.tensors import IGNORE_LABEL

FOLDERS: dict[str, Literal["training", "validation"]] = {"train": "training", "val": "validation"}
"""Sub-folder of each split."""
_CLASS_LISTS = ("objectInfo150.txt", "objectInfo150.csv")


def ade20k_classes() -> tuple[str, ...]:
    """The 150 class names, in the order of the published embeddings."""
    return tuple(shipped_json("ade20k_classes.json"))


class Ade20k(PairSamples):
    """Samples with `labels` 0..149, 255 = other things.

    Args:
        root: Folder with `images/` and `annotations/` (ADEChallengeData2016).
        split: `train` or `val`.
        unpaired: What to do about images without annotation and annotations without image: refuse the folder, or
            leave them out. Either way `unpaired` names them.

    Raises:
        UsageError: If there is no such split, files lack their partner, or the folder's class list is another one.
    """

    label_values = tuple(range(1, 151))

    def __init__(self, root: str | Path, split: str, *, unpaired: Unpaired = "error") -> None:
        self.root = Path(root)
        if split not in FOLDERS:
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(FOLDERS)}")
        folders = [self.root / kind / FOLDERS[split] for kind in ("images", "annotations")]
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"{root}: no folder {folder.relative_to(self.root)}/, which ADE20K's {split} needs")
        self.classes = ade20k_classes()
        _check_class_list(self.root, len(self.classes))
        images, labels = (named_files(folder, "*", end) for folder, end in zip(folders, (".jpg", ".png"), strict=True))
        self.pairs, self.unpaired = match_pairs(
            images,
            labels,
            no_partner=lambda name: f"no annotation {folders[1] / name}.png",
            no_image=lambda name: f"no image {folders[0] / name}.jpg",
        )
        self.notes = refuse_unpaired(self.root, split, self.unpaired, self.pairs, unpaired)
        self._reader = PartReader(classes=_label_table())


def _label_table() -> LabelTable:
    """File values 0, 1, ..., 150 -> 255, 0, ..., 149, as the metric does."""
    meaning = reduce_zero_label(torch.arange(256, dtype=torch.uint8)).numpy().astype(np.int16)
    meaning[(meaning > 149) & (meaning != IGNORE_LABEL)] = -1
    return LabelTable(meaning, "value {value} at row {row}, column {column}; ADE20K's are 0..150")


def _check_class_list(root: Path, expected: int) -> None:
    """Refuse a folder whose own class list has another number of classes."""
    for path in (root / name for name in _CLASS_LISTS):
        if path.is_file():
            lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            if len(lines) - 1 != expected:  # the first line is a heading
                raise UsageError(
                    f"{path}: lists {len(lines) - 1} classes; ADE20K SceneParsing has {expected}. For other classes "
                    "use images/, labels/ and classes.json (format folder)"
                )


LAYOUT = Layout(
    parts=("labels",),
    signs="annotations/training/ or annotations/validation/",
    is_here=lambda root: bool(present_folders(root / "annotations", FOLDERS.values())) and not has_class_list(root),
    splits=lambda root: [split for split, name in FOLDERS.items() if (root / "images" / name).is_dir()],
    open=Ade20k,
    full={"train": 20_210, "val": 2_000},
)
