"""Cityscapes with fine annotations: the 19 classes of its benchmark.

```
leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png
gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelIds.png        (or ..._gtFine_labelTrainIds.png)
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vpd.data.sample import Sample
from vpd.datasets.annotations import shipped_json
from vpd.datasets.classes import LabelTable
from vpd.datasets.layout import Layout, present_folders
from vpd.datasets.pairs import PairSamples, Unpaired, match_pairs, named_files, refuse_unpaired
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL

SPLITS = ("train", "val")
"""Splits with labels; those of `test` are dummies."""

_IMAGE_END = "_leftImg8bit.png"
# labelIds comes with the download, labelTrainIds is made from it by scripts: the original is preferred
_LABEL_ENDS = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")
_LICENSE_PLATE = 255  # -1 in 8 bits
_LAST_LABEL_ID = 33


def cityscapes_classes() -> dict[str, int]:
    """The 19 classes and their numbers in `labelIds` files, in the order of the train ids."""
    return dict(shipped_json("cityscapes_classes.json"))


class Cityscapes(PairSamples):
    """Samples with `labels` 0..18, 255 = not counted; city and sequence are their `group`.

    Args:
        root: Folder with `leftImg8bit/` and `gtFine/`.
        split: `train` or `val`.
        unpaired: What to do about images without labels and labels without image: refuse the folder, or leave
            them out. Either way `unpaired` names them.

    Raises:
        UsageError: If there is no such split, or files lack their partner.
    """

    def __init__(self, root: str | Path, split: str, *, unpaired: Unpaired = "error") -> None:
        self.root = Path(root)
        if split == "test":
            raise UsageError(
                f"{root}: the test labels of Cityscapes are dummies, the benchmark keeps the true ones. Measure on "
                "val; `vpd predict segment` makes what its server takes"
            )
        if split not in SPLITS:
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(SPLITS)}")
        for kind in ("leftImg8bit", "gtFine"):
            if not (self.root / kind / split).is_dir():
                raise UsageError(f"{root}: no folder {kind}/{split}/, which Cityscapes has")
        label_ids = cityscapes_classes()
        self.classes, self.label_values = tuple(label_ids), tuple(label_ids.values())
        images = named_files(self.root / "leftImg8bit" / split, "*/*", _IMAGE_END)
        by_ids, by_train_ids = (named_files(self.root / "gtFine" / split, "*/*", end) for end in _LABEL_ENDS)
        self.pairs, self.unpaired = match_pairs(
            images,
            by_train_ids | by_ids,
            no_partner=lambda name: f"no labels in gtFine/{split}",
            no_image=lambda name: f"no image in leftImg8bit/{split}",
            group=lambda name: name.rpartition("_")[0],
        )
        self.notes = refuse_unpaired(self.root, split, self.unpaired, self.pairs, unpaired)
        self._by_ids, self._by_train_ids = (PartReader(classes=table) for table in _label_tables(self.label_values))

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a label is none of Cityscapes'.
        """
        pair = self.pairs[index]
        reader = self._by_train_ids if pair.partner.name.endswith(_LABEL_ENDS[1]) else self._by_ids
        return reader.sample(pair.name, image=pair.image, labels=pair.partner, group=pair.group, exif=self.exif)

    def reading(self) -> dict[str, Any]:
        """Nothing: the benchmark decides."""
        return {}


def _label_tables(label_values: tuple[int, ...]) -> tuple[LabelTable, LabelTable]:
    """What the values of `labelIds` and of `labelTrainIds` files mean."""
    told, classes = "value {value} at row {row}, column {column}; there are ", np.arange(len(label_values))
    by_ids, by_train_ids = np.full((2, 256), -1, dtype=np.int16)
    by_ids[[*range(_LAST_LABEL_ID + 1), _LICENSE_PLATE]] = IGNORE_LABEL
    by_ids[list(label_values)] = classes
    by_train_ids[classes] = classes
    by_train_ids[IGNORE_LABEL] = IGNORE_LABEL
    return (
        LabelTable(by_ids, f"{told}0..{_LAST_LABEL_ID} and {_LICENSE_PLATE} (licence plate)"),
        LabelTable(by_train_ids, f"{told}0..{len(classes) - 1} and {IGNORE_LABEL}"),
    )


LAYOUT = Layout(
    parts=("labels",),
    signs="leftImg8bit/ and gtFine/",
    is_here=lambda root: (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir(),
    splits=lambda root: present_folders(root / "leftImg8bit", SPLITS),
    open=Cityscapes,
    full={"train": 2_975, "val": 500},
)
