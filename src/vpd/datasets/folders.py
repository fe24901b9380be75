"""A folder of images and of label pictures (CamVid's layout) or depth files, paired by name or by a table.

```
images/{split}/NAME.jpg   labels/{split}/NAME.png   classes.json   [{split}.txt: the names that count]
images/NAME.jpg           labels/NAME.png           classes.json   {split}.txt
                          depth instead of labels: for depth
{split}.csv               first line: image,depth[,scene][,group]; paths below the folder
```
`classes.json` is `{"classes": [...], "ignore_index": 255}` or a plain list; `classes.txt` has one name a line. Depth
files are PNG or TIFF of 16 bits, TIFF of floating point, or `.npy`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vpd.datasets.annotations import decode_text, inner_path
from vpd.datasets.classes import read_class_list
from vpd.datasets.layout import Layout
from vpd.datasets.pairs import Pair, PairSamples, Unpaired, refuse_unpaired
from vpd.datasets.sample_reader import PartReader, scene_names
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
_COLUMNS = ("image", "depth", "scene", "group")
_NO_LISTS = ("classes", "readme", "license", "licence", "labels", "notes")
"""Text files that are no lists of names."""


class FolderData(PairSamples):
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
        listed = read_class_list(self.root, classes, ignore_index)
        self.classes = listed.names
        self._reader = PartReader(classes=listed)


class DepthFolder(PairSamples):
    """Samples with `depth_m` from folders or a table of pairs.

    Args:
        root: Folder with `images/` and `depth/`, or with `{split}.csv`, which goes before the folders.
        split: Name of the sub-folders, of the list file, or of the table.
        depth_scale: Units of depth files in one metre; none = 1000 for whole numbers (millimetres), 1 for
            floating-point numbers (metres). KITTI's files have 256.
        max_depth_m: Larger depth counts as not measured, metres; none = all counts.
        unpaired: What to do about files of the folders without their partner: refuse the folder, or leave them out.
        allow_absolute: Let a table name files outside the folder.

    Raises:
        UsageError: If there is no such split, files lack their partner, or a line of the table is malformed.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        depth_scale: float | None = None,
        max_depth_m: float | None = None,
        unpaired: Unpaired = "error",
        allow_absolute: bool = False,
    ) -> None:
        self.root = Path(root)
        self._reader = PartReader(depth_scale=depth_scale, max_depth_m=max_depth_m)
        self.counted = self._reader.counted
        table = self.root / f"{split}.csv"
        if table.is_file():
            self.pairs = _read_table(table, allow_absolute)
        elif not (self.root / "images").is_dir() and (splits := depth_splits(self.root)):
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(splits)}")
        else:
            self.pairs, self.unpaired = find_pairs(self.root, split, "depth", _DEPTH_SUFFIXES, unpaired=unpaired)
        self.scenes = scene_names(pair.scene for pair in self.pairs)


def find_pairs(
    root: Path,
    split: str,
    kind: Literal["labels", "depth"],
    suffixes: Sequence[str],
    *,
    unpaired: Unpaired,
) -> tuple[list[Pair], list[str]]:
    """Pairs of one split, in the order of its list or else sorted, and a line for each missing partner.

    A sub-folder is the group of its files: frames of one recording resemble each other.

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
    pairs = [
        Pair(name, images[name], partners[name], name.rpartition("/")[0] or None)
        for name in names
        if name in images and name in partners
    ]
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
    lines = [line.strip() for line in decode_text(path.read_bytes(), path).splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{path}: the list has no name; the {path.stem} split is empty")
    names = [str(Path(line).with_suffix("")) if line.lower().endswith(IMAGE_SUFFIXES) else line for line in lines]
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: {len(names) - len(set(names))} names stand twice")
    return names


def is_depth_folder(root: Path) -> bool:
    """Whether a folder has images and depth, or a table of them."""
    return ((root / "images").is_dir() and (root / "depth").is_dir()) or any(_tables(root))


def depth_splits(root: Path) -> list[str]:
    """Splits that a folder of this layout offers: tables, sub-folders of `images/`, list files."""
    folders = folder_splits(root) if (root / "images").is_dir() and (root / "depth").is_dir() else []
    return sorted({*folders, *(path.stem for path in _tables(root))})


def _tables(root: Path) -> list[Path]:
    """Files that begin like a table of images and depth."""
    tables = []
    for path in sorted(path for path in root.glob("*.csv") if path.is_file()):
        with path.open("rb") as file:
            head = file.readline(1000).lower()
        if b"image" in head and b"depth" in head:
            tables.append(path)
    return tables


def _read_table(path: Path, allow_absolute: bool) -> list[Pair]:
    pairs: list[Pair] = []
    lines: dict[str, int] = {}
    reader = csv.reader(io.StringIO(decode_text(path.read_bytes(), path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        _check_header(path, columns)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            pair = _pair(path, reader.line_num, columns, values, allow_absolute)
            if pair.name in lines:
                raise UsageError(f"{pair.origin}: {pair.name} stands in line {lines[pair.name]} already")
            lines[pair.name] = reader.line_num
            pairs.append(pair)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not a table with commas ({error})") from error
    if not pairs:
        raise UsageError(f"{path}: the table has no line below its first; the {path.stem} split is empty")
    return pairs


def _check_header(path: Path, columns: list[str]) -> None:
    if not {"image", "depth"} <= set(columns) or not set(columns) <= set(_COLUMNS) or len(set(columns)) < len(columns):
        raise UsageError(
            f"{path}, line 1: the first line must name the columns, separated by commas: image,depth and perhaps "
            f"scene,group. It is: {','.join(columns)[:200]}"
        )


def _pair(path: Path, number: int, columns: list[str], values: list[str], allow_absolute: bool) -> Pair:
    where = f"{path}, line {number}"
    if len(values) != len(columns):
        raise UsageError(f"{where}: {len(values)} values for the {len(columns)} columns {','.join(columns)}")
    cells = {column: value.strip() for column, value in zip(columns, values, strict=True)}
    image, depth = (inner_path(cells[column], where, allow_absolute=allow_absolute) for column in ("image", "depth"))
    leads_out = image.is_absolute() or ".." in image.parts
    name = f"{image.stem}_{number}" if leads_out else image.with_suffix("").as_posix()
    scene, group = (cells.get(column) or None for column in ("scene", "group"))
    return Pair(name, path.parent / image, path.parent / depth, group, scene, where)


LAYOUT = Layout(
    parts=("labels",),
    signs="images/ and labels/",
    is_here=lambda root: (root / "images").is_dir() and (root / "labels").is_dir(),
    splits=folder_splits,
    open=FolderData,
)
DEPTH_LAYOUT = Layout(
    parts=("depth",),
    signs="images/ and depth/, or SPLIT.csv with the columns image,depth",
    is_here=is_depth_folder,
    splits=depth_splits,
    open=DepthFolder,
)
