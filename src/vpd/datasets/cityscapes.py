"""Cityscapes with fine annotations: the 19 classes of its benchmark.

```
leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png
gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelIds.png        (or ..._gtFine_labelTrainIds.png)
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.label_pairs import Unpaired, check_same_size, refuse_unpaired
from vpd.errors import UsageError
from vpd.files.images import read_image, read_labels
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
    text = resources.files("vpd.data").joinpath("cityscapes_classes.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


class Cityscapes(SampleSet):
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
        images = _find(self.root / "leftImg8bit" / split, _IMAGE_END)
        by_ids, by_train_ids = (_find(self.root / "gtFine" / split, end) for end in _LABEL_ENDS)
        labels = by_train_ids | by_ids
        self.pairs = [(name, images[name], labels[name]) for name in sorted(images.keys() & labels.keys())]
        """Name (`aachen_000000_000019`), image and label file of each sample."""
        self.unpaired = [
            *(f"{images[name]}: no labels in gtFine/{split}" for name in sorted(images.keys() - labels.keys())),
            *(f"{labels[name]}: no image in leftImg8bit/{split}" for name in sorted(labels.keys() - images.keys())),
        ]
        refuse_unpaired(self.root, split, self.unpaired, self.pairs, unpaired)
        self._train_ids = np.full(256, -1, dtype=np.int16)
        self._train_ids[[*range(_LAST_LABEL_ID + 1), _LICENSE_PLATE]] = IGNORE_LABEL
        self._train_ids[list(self.label_values)] = np.arange(len(self.classes))

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (name for name, _, _ in self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a label is none of Cityscapes'.
        """
        name, image_path, label_path = self.pairs[index]
        image, raw = np.array(read_image(image_path)), read_labels(label_path)
        check_same_size("label", raw, label_path, image.shape[:2], image_path)
        return Sample(name, image, labels=self._labels(raw, label_path), group=name.rpartition("_")[0])

    def _labels(self, raw: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        if path.name.endswith(_LABEL_ENDS[1]):
            labels, known = raw.astype(np.int16), f"0..{len(self.classes) - 1} and {IGNORE_LABEL}"
            labels[(raw >= len(self.classes)) & (raw != IGNORE_LABEL)] = -1
        else:
            labels, known = self._train_ids[raw], f"0..{_LAST_LABEL_ID} and {_LICENSE_PLATE} (licence plate)"
        if labels.min() < 0:
            row, column = np.argwhere(labels < 0)[0]
            raise UsageError(f"{path}: value {raw[row, column]} at row {row}, column {column}; there are {known}")
        return labels.astype(np.uint8)


def _find(folder: Path, end: str) -> dict[str, Path]:
    """Name without its end -> file, of all cities."""
    return {path.name.removesuffix(end): path for path in folder.glob(f"*/*{end}") if not path.name.startswith(".")}
