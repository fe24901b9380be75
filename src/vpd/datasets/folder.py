"""A folder of images and label pictures (CamVid's layout), for semantic segmentation.

```
images/{split}/NAME.jpg   labels/{split}/NAME.png   classes.json   [{split}.txt: the names that count]
images/NAME.jpg           labels/NAME.png           classes.json   {split}.txt
```
`classes.json` is `{"classes": [...], "ignore_index": 255}` or a plain list; `classes.txt` has one name a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.classes import read_class_list
from vpd.datasets.label_pairs import Unpaired
from vpd.datasets.pair_folders import find_pairs
from vpd.datasets.sample_reader import PartReader

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


class FolderData(SampleSet):
    """Samples with `labels` from a folder of images and label pictures.

    Args:
        root: Folder with `images/`, `labels/` and the class list.
        split: Name of the sub-folder or of the list file.
        classes: Other names of the same classes; needed where the folder has no class list.
        unpaired: What to do about images without labels and labels without image: refuse the folder, or leave
            them out. Either way `unpaired` names them.
        ignore_index: Label value of pixels that do not count; none = what the class list says, else 255.

    Raises:
        UsageError: If the folder has another layout, no such split, no class list or one of another length than
            `classes`, or unpaired files.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        unpaired: Unpaired = "error",
        ignore_index: int | None = None,
    ) -> None:
        self.root = Path(root)
        self.pairs, self.unpaired = find_pairs(self.root, split, "labels", _LABEL_SUFFIXES, unpaired=unpaired)
        """Name, image file and label file of each sample."""
        listed = read_class_list(self.root, classes, ignore_index)
        self.classes = listed.names
        self._reader = PartReader(classes=listed)

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (pair.name for pair in self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a label is not in the class list.
        """
        pair = self.pairs[index]
        return self._reader.sample(pair.name, image=pair.image, labels=pair.partner, group=pair.group)
