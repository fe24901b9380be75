"""A folder of images and depth files, paired by name or by a table, for depth.

```
images/{split}/NAME.jpg   depth/{split}/NAME.png   [{split}.txt: the names that count]
images/NAME.jpg           depth/NAME.png           {split}.txt
{split}.csv               first line: image,depth[,scene][,group]; paths below the folder
```
Depth files are PNG or TIFF of 16 bits, TIFF of floating point, or `.npy`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import inner_path, naming
from vpd.datasets.label_pairs import Unpaired
from vpd.datasets.pair_folders import find_pairs, folder_splits
from vpd.datasets.sample_reader import PartReader, scene_names
from vpd.errors import UsageError

_DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
_COLUMNS = ("image", "depth", "scene", "group")


class _Row(NamedTuple):
    name: str
    image: Path
    depth: Path
    scene: str | None
    group: str | None
    origin: str


class DepthFolder(SampleSet):
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
        self.unpaired: list[str] = []
        table = self.root / f"{split}.csv"
        if table.is_file():
            self.rows = _read_table(table, allow_absolute)
            """What each sample is made of."""
        elif not (self.root / "images").is_dir() and (splits := depth_splits(self.root)):
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(splits)}")
        else:
            pairs, self.unpaired = find_pairs(self.root, split, "depth", _DEPTH_SUFFIXES, unpaired=unpaired)
            self.rows = [_Row(pair.name, pair.image, pair.partner, None, pair.group, "") for pair in pairs]
        self.scenes = scene_names(row.scene for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (row.name for row in self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file is missing or cannot be read, sizes differ, or depth has 8 bits.
        """
        row = self.rows[index]
        with naming(row.origin):
            return self._reader.sample(row.name, image=row.image, depth=row.depth, scene=row.scene, group=row.group)


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


def _read_table(path: Path, allow_absolute: bool) -> list[_Row]:
    rows: list[_Row] = []
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            _check_header(path, columns)
            for values in reader:
                if not any(value.strip() for value in values):
                    continue
                row = _row(path, reader.line_num, columns, values, allow_absolute)
                if row.name in lines:
                    raise UsageError(f"{row.origin}: {row.name} stands in line {lines[row.name]} already")
                lines[row.name] = reader.line_num
                rows.append(row)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not a table with commas ({error})") from error
    if not rows:
        raise UsageError(f"{path}: the table has no line below its first; the {path.stem} split is empty")
    return rows


def _check_header(path: Path, columns: list[str]) -> None:
    if not {"image", "depth"} <= set(columns) or not set(columns) <= set(_COLUMNS) or len(set(columns)) < len(columns):
        raise UsageError(
            f"{path}, line 1: the first line must name the columns, separated by commas: image,depth and perhaps "
            f"scene,group. It is: {','.join(columns)[:200]}"
        )


def _row(path: Path, number: int, columns: list[str], values: list[str], allow_absolute: bool) -> _Row:
    where = f"{path}, line {number}"
    if len(values) != len(columns):
        raise UsageError(f"{where}: {len(values)} values for the {len(columns)} columns {','.join(columns)}")
    cells = {column: value.strip() for column, value in zip(columns, values, strict=True)}
    image, depth = (inner_path(cells[column], where, allow_absolute=allow_absolute) for column in ("image", "depth"))
    leads_out = image.is_absolute() or ".." in image.parts
    name = f"{image.stem}_{number}" if leads_out else image.with_suffix("").as_posix()
    scene, group = (cells.get(column) or None for column in ("scene", "group"))
    return _Row(name, path.parent / image, path.parent / depth, scene, group, where)
