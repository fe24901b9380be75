"""A folder of images and label pictures (CamVid's layout), for semantic segmentation.

```
images/{split}/NAME.jpg   labels/{split}/NAME.png   classes.json   [{split}.txt: the names that count]
images/NAME.jpg           labels/NAME.png           classes.json   {split}.txt
```
`classes.json` is `{"classes": [...], "ignore_index": 255}` or a plain list; `classes.txt` has one name a line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vpd.data.samples import Sample
from vpd.errors import UsageError
from vpd.images import IMAGE_SUFFIXES, read_image, read_labels
from vpd.types import IGNORE_LABEL

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


class FolderData:
    """Samples with `labels` from a folder of images and label pictures.

    Args:
        root: Folder with `images/`, `labels/` and the class list.
        split: Name of the sub-folder or of the list file.
        classes: Class names, instead of the folder's own list.
        unpaired: What to do about images without labels and labels without image: refuse the folder, or leave
            them out. Either way `unpaired` names them.

    Raises:
        UsageError: If the folder has another layout, no such split, no class list, or unpaired files.
    """

    scenes: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        unpaired: Literal["error", "skip"] = "error",
    ) -> None:
        self.root = Path(root)
        for kind in ("images", "labels"):
            if not (self.root / kind).is_dir():
                raise UsageError(f"{root}: no folder {kind}/; this layout has images/, labels/ and classes.json")
        if split not in folder_splits(self.root):
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(folder_splits(self.root))}")
        self.classes, ignored = read_classes(self.root) if classes is None else (tuple(classes), IGNORE_LABEL)
        if not 0 < len(self.classes) < IGNORE_LABEL:
            raise UsageError(f"{self.root}: {len(self.classes)} classes; 8-bit labels hold 1 to {IGNORE_LABEL - 1}")
        self._meaning = np.full(256, -1, dtype=np.int16)
        self._meaning[: len(self.classes)] = np.arange(len(self.classes))
        self._meaning[ignored] = IGNORE_LABEL
        images, labels = (_split_files(self.root, kind, split) for kind in ("images", "labels"))
        names = _listed_names(self.root, split) or sorted(images | labels)
        self.pairs = [(name, images[name], labels[name]) for name in names if name in images and name in labels]
        """Name, image file and label file of each sample."""
        self.unpaired = [
            f"{name}: no {missing} in {self.root}"
            for name in names
            for missing in (["image"] if name not in images else []) + (["label"] if name not in labels else [])
        ]
        """One line for each missing file."""
        if self.unpaired and unpaired == "error":
            raise UsageError(
                f"{self.root}: {len(self.unpaired)} of {len(names)} {split} samples lack a file. "
                f"First: {'; '.join(self.unpaired[:3])}. Add the files, or list the complete names in {split}.txt"
            )
        if not self.pairs:
            raise UsageError(f"{self.root}: the {split} split has no pair of an image and a label picture")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file cannot be read, sizes differ, or a label is not in the class list.
        """
        name, image_path, label_path = self.pairs[index]
        image = np.array(read_image(image_path))
        raw = read_labels(label_path)
        if raw.shape != image.shape[:2]:
            raise UsageError(
                f"{label_path}: label size {raw.shape[1]}x{raw.shape[0]} differs from the image's "
                f"{image.shape[1]}x{image.shape[0]} ({image_path})"
            )
        return Sample(name, image, labels=self._checked(raw, label_path))

    def _checked(self, raw: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        labels = self._meaning[raw]
        if labels.min() < 0:
            row, column = np.argwhere(labels < 0)[0]
            raise UsageError(
                f"{path}: label {raw[row, column]} at row {row}, column {column} is outside the class list "
                f"(0..{len(self.classes) - 1}, ignored: {np.flatnonzero(self._meaning == IGNORE_LABEL)[0]})"
            )
        return labels.astype(np.uint8)


def read_classes(root: Path) -> tuple[tuple[str, ...], int]:
    """Class names of a folder, and the label value that it ignores.

    Raises:
        UsageError: If there is no class list or it is not one.
    """
    path = root / "classes.json"
    if not path.is_file():
        if not (root / "classes.txt").is_file():
            raise UsageError(f"{root}: no class list; looked for classes.json and classes.txt")
        lines = (root / "classes.txt").read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip()), IGNORE_LABEL
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    names, ignored = content, IGNORE_LABEL
    if isinstance(content, dict):
        names, ignored = content.get("classes"), content.get("ignore_index", IGNORE_LABEL)
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise UsageError(f'{path}: must be a list of class names, or {{"classes": [names]}}')
    if not isinstance(ignored, int) or not 0 <= ignored <= 255:
        raise UsageError(f"{path}: ignore_index is {ignored!r}; it must be 0..255")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UsageError(f"{path}: class names stand twice: {', '.join(twice)}")
    return tuple(name.strip() for name in names), ignored


def folder_splits(root: Path) -> list[str]:
    """Splits that a folder of this layout offers."""
    folders = [path.name for path in (root / "images").iterdir() if path.is_dir()]
    lists = [path.stem for path in root.glob("*.txt") if path.name != "classes.txt"]
    return sorted({*folders, *lists} if folders else {*lists} or {"train"})


def _split_files(root: Path, kind: str, split: str) -> dict[str, Path]:
    """Name without suffix (with sub-folders) -> file, of one split's images or labels."""
    folder = root / kind / split if (root / kind / split).is_dir() else root / kind
    suffixes = IMAGE_SUFFIXES if kind == "images" else _LABEL_SUFFIXES
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UsageError(f"{files[name]} and {path} have the same name; which one is meant?")
        files[name] = path
    return files


def _listed_names(root: Path, split: str) -> list[str]:
    """Names in `{split}.txt`, without suffixes; empty if there is no such file."""
    path = root / f"{split}.txt"
    if not path.is_file():
        return []
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = [str(Path(line).with_suffix("")) if line.lower().endswith(IMAGE_SUFFIXES) else line for line in lines]
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: {len(names) - len(set(names))} names stand twice")
    return names
