"""Two folders whose files belong together by name: images, and label pictures or depth.

```
images/{split}/NAME.jpg   labels/{split}/NAME.png   [{split}.txt: the names that count]
images/NAME.jpg           labels/NAME.png           {split}.txt
```
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from vpd.datasets.label_pairs import Unpaired, refuse_unpaired
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES

_NO_LISTS = ("classes", "readme", "license", "licence", "labels", "notes")
"""Text files that are no lists of names."""


class Pair(NamedTuple):
    """Two files of one name."""

    name: str
    """Path below the split's folder, without suffix."""
    image: Path
    """Image file."""
    partner: Path
    """Label or depth file."""

    @property
    def group(self) -> str | None:
        """The sub-folder, if there is one: frames of one recording resemble each other."""
        folder = self.name.rpartition("/")[0]
        return folder or None


def find_pairs(
    root: Path,
    split: str,
    kind: Literal["labels", "depth"],
    suffixes: Sequence[str],
    *,
    unpaired: Unpaired,
) -> tuple[list[Pair], list[str]]:
    """Pairs of one split, in the order of its list or else sorted, and a line for each missing partner.

    Args:
        root: Folder with `images/` and a folder `kind`.
        split: Name of the sub-folders or of the list file.
        kind: The folder of the partners.
        suffixes: What partners end in.
        unpaired: What to do about files without partner: refuse the folder, or leave them out.

    Raises:
        UsageError: If there is no such split or no pair, two files have one name, or files lack their partner.
    """
    for folder in ("images", kind):
        if not (root / folder).is_dir():
            raise UsageError(f"{root}: no folder {folder}/; this layout has images/ and {kind}/")
    if split not in folder_splits(root):
        raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(folder_splits(root))}")
    images = _files(root, "images", split, IMAGE_SUFFIXES)
    partners = _files(root, kind, split, suffixes)
    listed = root / f"{split}.txt"
    names = _listed_names(listed) if listed.is_file() else sorted(images | partners)
    pairs = [Pair(name, images[name], partners[name]) for name in names if name in images and name in partners]
    wanted = (("images", images, IMAGE_SUFFIXES), (kind, partners, suffixes))
    missing = [
        f"{name}: no {_place(root, part, split)}/{name}{endings[0]} (or {', '.join(endings[1:])})"
        for name in names
        for part, files, endings in wanted
        if name not in files
    ]
    refuse_unpaired(root, split, missing, pairs, unpaired)
    return pairs, missing


def folder_splits(root: Path) -> list[str]:
    """Splits that a folder of this layout offers: sub-folders of `images/`, and list files."""
    folders = [path.name for path in (root / "images").iterdir() if path.is_dir()]
    lists = [path.stem for path in root.glob("*.txt") if path.stem.lower() not in _NO_LISTS]
    return sorted({*folders, *lists} if folders else {*lists} or {"train"})


def _place(root: Path, kind: str, split: str) -> str:
    """Folder of one split's files of one kind, below the root."""
    return f"{kind}/{split}" if (root / kind / split).is_dir() else kind


def _files(root: Path, kind: str, split: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Name without suffix (with sub-folders) -> file, of one split's files of one kind."""
    folder = root / _place(root, kind, split)
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UsageError(f"{files[name]} and {path} have the same name; which one is meant?")
        files[name] = path
    return files


def _listed_names(path: Path) -> list[str]:
    """Names in a list, without suffixes."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{path}: the list has no name; the {path.stem} split is empty")
    names = [str(Path(line).with_suffix("")) if line.lower().endswith(IMAGE_SUFFIXES) else line for line in lines]
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: {len(names) - len(set(names))} names stand twice")
    return names
