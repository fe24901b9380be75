"""ADE20K SceneParsing (ADEChallengeData2016): 150 classes.

```
images/training/ADE_train_00000001.jpg        images/validation/ADE_val_00000001.jpg         split train, val
annotations/training/ADE_train_00000001.png   annotations/validation/ADE_val_00000001.png
```
In the label files 0 means other things, which are ignored, and k is class k - 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.label_pairs import Unpaired, check_same_size, refuse_unpaired
from vpd.errors import UsageError
from vpd.files.images import read_image, read_labels
from vpd.metrics.segmentation import reduce_zero_label
from vpd.tensors import IGNORE_LABEL

FOLDERS: dict[str, Literal["training", "validation"]] = {"train": "training", "val": "validation"}
"""Sub-folder of each split."""
_CLASS_LISTS = ("objectInfo150.txt", "objectInfo150.csv")


def ade20k_classes() -> tuple[str, ...]:
    """The 150 class names, in the order of the published embeddings."""
    text = resources.files("vpd.data").joinpath("ade20k_classes.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


class Ade20k(SampleSet):
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
        images, labels = (_names(folder, suffix) for folder, suffix in zip(folders, (".jpg", ".png"), strict=True))
        self.names = sorted(images & labels)
        """Names of the samples: those of the files, without suffix."""
        self._folders = folders
        self.unpaired = [
            *(f"{folders[0] / name}.jpg: no annotation {folders[1] / name}.png" for name in sorted(images - labels)),
            *(f"{folders[1] / name}.png: no image {folders[0] / name}.jpg" for name in sorted(labels - images)),
        ]
        refuse_unpaired(self.root, split, self.unpaired, self.names, unpaired)

    def __len__(self) -> int:
        return len(self.names)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return self.names

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a label is none of ADE20K's.
        """
        name = self.names[index]
        image_path, label_path = self._folders[0] / f"{name}.jpg", self._folders[1] / f"{name}.png"
        image, raw = np.array(read_image(image_path)), read_labels(label_path)
        check_same_size("label", raw, label_path, image.shape[:2], image_path)
        return Sample(name, image, labels=_reduce_zero(raw, label_path))


def _reduce_zero(raw: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """File values 0, 1, ..., 150 -> 255, 0, ..., 149, as the metric does."""
    labels: NDArray[np.uint8] = reduce_zero_label(torch.from_numpy(raw)).numpy()
    wrong = (labels > 149) & (labels != IGNORE_LABEL)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UsageError(f"{path}: value {raw[row, column]} at row {row}, column {column}; ADE20K's are 0..150")
    return labels


def _names(folder: Path, suffix: str) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix == suffix and not path.name.startswith(".")}


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
