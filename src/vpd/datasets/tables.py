"""Tables of files, as spreadsheets and data frames write them: a picture and its partner in each line.

```
image,depth[,scene][,group]        commas, semicolons or tabs; paths below the folder of the table
image,label[,group]
```
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vpd.datasets.annotations import decode_text, inner_path
from vpd.datasets.depth_arrays import ARRAY_SUFFIXES
from vpd.datasets.pairs import Pair
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import files_in

Kind = Literal["labels", "depth"]
"""What stands beside the picture."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "image_file", "img", "img_path", "rgb", "rgb_path", "filename", "file_name"),
    "labels": ("label", "labels", "label_path", "mask", "mask_path", "masks", "annotation", "segmentation"),
    "depth": ("depth", "depth_path", "depth_file", "depth_map"),
}
"""What columns are called, in any case; the first that is there counts."""
_PARTNERS = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
_SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Columns:
    """Names of the columns that somebody chose."""

    image: str | None = None
    """Of the picture."""
    partner: str | None = None
    """Of labels or depth."""

    def place(self, header: list[str], kind: Literal["image"] | Kind) -> int | None:
        """Where a column stands in a header, if it does."""
        given = self.image if kind == "image" else self.partner
        lowered = [name.lower() for name in header]
        if given is not None:
            return header.index(given) if given in header else None
        return next((lowered.index(name) for name in COLUMNS[kind] if name in lowered), None)


def find_tables(root: Path, kind: Kind, columns: Columns = Columns()) -> dict[str, Path]:
    """Tables of a kind by their split; only their first two lines are read."""
    tables: dict[str, Path] = {}
    for path in files_in(root, ".csv", ".tsv"):
        with path.open("rb") as file:
            lines = [file.readline(4000).decode("utf-8-sig", "replace") for _ in range(2)]
        header = _cells(lines[0], _separator(lines[0]))
        place = columns.place(header, kind)
        if columns.place(header, "image") is None or place is None:
            continue
        values = _cells(lines[1], _separator(lines[0]))
        # a label may also be the name of a class: such a table is about whole pictures
        if kind == "depth" or (len(values) > place and values[place].lower().endswith(_PARTNERS)):
            tables.setdefault(path.stem, path)
    return tables


def read_table(
    path: Path,
    kind: Kind,
    *,
    columns: Columns = Columns(),
    allow_absolute: bool = False,
) -> tuple[list[Pair], list[str]]:
    """Pairs of a table, and what is to be said of how it was read.

    Args:
        path: The table.
        kind: What stands beside the picture.
        columns: Names of the columns, where they were chosen.
        allow_absolute: Let it name files outside its folder.

    Raises:
        UsageError: If a column is missing, a line is malformed, or a picture stands twice.
    """
    text = decode_text(path.read_bytes(), path)
    separator = _separator(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    pairs: list[Pair] = []
    lines: dict[str, int] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _places(path, header, kind, columns, separator)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(values) != len(header):
                raise UsageError(f"{where}: {len(values)} values for the {len(header)} columns {','.join(header)}")
            cells = {name: values[place].strip() for name, place in places.items()}
            pair = _pair(cells, kind, path.parent, where, reader.line_num, allow_absolute)
            if pair.name in lines:
                raise UsageError(f"{where}: {pair.name} stands in line {lines[pair.name]} already")
            lines[pair.name] = reader.line_num
            pairs.append(pair)
    except csv.Error as error:
        what = {",": "commas", ";": "semicolons", "\t": "tabs"}[separator]
        raise UsageError(f"{path}, line {reader.line_num}: not a table with {what} ({error})") from error
    if not pairs:
        raise UsageError(f"{path}: the table has no line below its first; the {path.stem} split is empty")
    used = ", ".join(f"{header[place]} = {name}" for name, place in places.items() if header[place] != name)
    unused = ", ".join(name for place, name in enumerate(header) if place not in places.values())
    told = [f"{path.name}: columns {used}"] if used else []
    return pairs, told + ([f"{path.name}: columns not used: {unused}"] if unused else [])


def _places(path: Path, header: list[str], kind: Kind, columns: Columns, separator: str) -> dict[str, int]:
    places = {name: columns.place(header, name) for name in ("image", kind)}
    option = "label_column" if kind == "labels" else "depth_column"
    if None in places.values() or len(set(header)) < len(header):
        word = COLUMNS[kind][0]
        raise UsageError(
            f"{path}, line 1: the first line must name the columns, each once: image,{word} and perhaps scene,group. "
            f"It is: {separator.join(header)[:200]}. Known for the picture: {', '.join(COLUMNS['image'])}; for the "
            f"{word}: {', '.join(COLUMNS[kind])}; others by the options image_column and {option}"
        )
    found = {name: place for name, place in places.items() if place is not None}
    return found | {name: header.index(name) for name in ("scene", "group") if name in header}


def _pair(cells: dict[str, str], kind: Kind, folder: Path, where: str, number: int, allow_absolute: bool) -> Pair:
    image, partner = (
        inner_path(cells[name].replace("\\", "/"), where, allow_absolute=allow_absolute) for name in ("image", kind)
    )
    leads_out = image.is_absolute() or ".." in image.parts
    name = f"{image.stem}_{number}" if leads_out else image.with_suffix("").as_posix()
    return Pair(name, folder / image, folder / partner, cells.get("group") or None, cells.get("scene") or None, where)


def _separator(line: str) -> str:
    return max(_SEPARATORS, key=line.count)  # the first of them where there is none


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.strip("\r\n").split(separator)]
