"""Label Studio's JSON export beside its pictures: brush masks, polygons, rectangles and ellipses.

```
project-1-at-2026-01-01.json   images/street_1.jpg          or train.json, val.json
```
The export names pictures only: they are looked for by their names anywhere below the folder, also without the mark
that uploading puts before them (`1a2b3c4d-street_1.jpg`). Regions are painted in the file's order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from vpd.datasets.annotations import field, read_json
from vpd.datasets.class_files import find_class_list
from vpd.datasets.class_lines import Listed
from vpd.datasets.layout import Layout
from vpd.datasets.name_lists import USUAL_SPLITS, known_split
from vpd.datasets.outlined import Background, Outlined, OutlinedSamples, Painting, listed_names
from vpd.datasets.outlines import fill_ellipse, fill_polygon, fill_rectangle, picture_size, read_points
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import files_in, walk_files

_SNIFFED_BYTES = 2**16
_IS_EXPORT = re.compile(rb'^(\xef\xbb\xbf)?\s*\[\s*\{.*"annotations"\s*:\s*\[.*"result"\s*:', re.DOTALL)
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
_PER_CENT = (100, 100)
_KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")


class LabelStudioData(OutlinedSamples):
    """Samples with `labels` from Label Studio's JSON export.

    Args:
        root: Folder with the export and the pictures.
        split: Name of the file; `train` where no file is called like a split.
        classes: Names of the classes; none = the class list of the folder, else the names that occur, sorted.
        background: What pixels without object are: `class`: class 0; `ignore`: not counted.
        unpaired: What to do about tasks whose picture is not there: refuse the folder, or leave them out.

    Raises:
        UsageError: If there is no such split, a file is no such export, or a picture is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        background: Background = "class",
        unpaired: Unpaired = "error",
    ) -> None:
        self.root = Path(root)
        splits = _splits(self.root)
        split = known_split(self.root, splits, split)
        pictures = _pictures(self.root)
        items, missing, found = list[Outlined](), list[str](), set[str]()
        empty = several = 0
        self._regions: dict[str, bytes] = {}
        for path in splits[split]:
            for place, task in enumerate(_tasks(path)):
                where = f"{path}, task {place}"
                regions, is_chosen = _result(task)
                if regions is None:
                    empty += 1
                    continue
                several += is_chosen
                name = _picture_name(task, where)
                picture = next((pictures[known] for known in _names(name) if known in pictures), None)
                if picture is None:
                    missing.append(f"{where}: no picture {PurePosixPath(name).name} below {self.root}")
                    continue
                found |= {label for region in regions if (label := _label(region)) is not None}
                items.append(Outlined(f"{PurePosixPath(name).stem}_{len(items)}", picture, path))
                # as text: the numbers of brush masks would take several times the memory
                self._regions[items[-1].name] = json.dumps(regions).encode()
        if empty and not items and not missing:
            raise UsageError(f"{splits[split][0]}: none of its {empty} tasks has an annotation with a region")
        self.notes = refuse_unpaired(self.root, split, missing, items, unpaired)
        self.items, self.unpaired = items, missing
        listed = Listed("classes", classes) if classes is not None else find_class_list(self.root)
        self._take_classes(listed or listed_names(found, "Label Studio's export has no region"), background)
        if empty:
            self.notes = (*self.notes, f"{empty} tasks have no annotation: left out")
        if several:
            told = (
                f"{several} tasks have several annotations: the one that is marked as ground truth counts, or the first"
            )
            self.notes = (*self.notes, told)

    def _paint(self, item: Outlined) -> Painting:
        size, labels, left_out = None, np.zeros((0, 0), dtype=np.uint8), []
        for place, region in enumerate(json.loads(self._regions[item.name])):
            which = f"region {place} on {item.image.name}"
            label = _label(region)
            try:
                stated = picture_size((region.get("original_height"), region.get("original_width")), which)
                if size is None:
                    size, labels = stated, np.full(stated, self._empty, dtype=np.uint8)
                if stated != size:
                    raise UsageError(f"{which}: is of a picture of another size")
                area = _area(region, size, which)
            except UsageError as error:
                left_out.append(str(error))
                continue
            labels[area] = self._number(label, which)
            if others := _labels(region)[1:]:
                left_out.append(f"{which}: its labels after the first, {label!r}: {', '.join(map(str, others))[:100]}")
        if size is None:
            raise UsageError(f"{item.image.name}: its annotation has no region, so its size is not known")
        return Painting(labels, item.image, left_out)


def decode_brush(packed: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Pixels `(H, W)` of a brush mask: runs of bytes of an RGBA picture, whose transparency is the mask.

    Args:
        packed: Bytes, as a list of numbers.
        size: Height and width of the picture.
        where: What messages call it.

    Raises:
        UsageError: If it is no such mask, or for another size.

    Source: the format of https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack, which Label Studio uses.
    """
    if not isinstance(packed, list) or not all(type(value) is int and 0 <= value <= 255 for value in packed):
        raise UsageError(f"{where}: a brush mask must be a list of bytes")
    bits = np.unpackbits(np.array(packed, dtype=np.uint8))
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise UsageError(f"{where}: the brush mask ends too early")
        return int("".join(map(str, bits[place - count : place].tolist())), 2)

    total = read(32)
    if total != size[0] * size[1] * 4:
        raise UsageError(f"{where}: the brush mask has {total} values; a {size[1]}x{size[0]} picture has four a pixel")
    word = read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values, done = np.zeros(total, dtype=np.uint8), 0
    while done < total:
        is_run = read(1)
        count = min(read(lengths[read(2)]) + 1, total - done)
        if is_run:
            values[done : done + count] = read(word) & 0xFF
        else:
            stop = place + count * word
            if stop > len(bits):
                raise UsageError(f"{where}: the brush mask ends too early")
            words = bits[place:stop].reshape(count, word)
            values[done : done + count] = words @ (1 << np.arange(word)[::-1]) & 0xFF
            place = stop
        done += count
    return values.reshape(*size, 4)[..., 3] > 0


def _area(region: dict[str, Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Pixels of a region; its numbers are per cent of the picture."""
    value, kind = field(region, "value", dict, where), region.get("type")
    if kind not in _KINDS or _label(region) is None:
        raise UsageError(f"{where}: {kind!r} is no area with a label; {', '.join(_KINDS)} are read")
    if turn := region.get("image_rotation"):
        raise UsageError(f"{where}: the picture was turned by {turn} degrees when it was drawn, which is not read")
    if kind == "brushlabels":
        return decode_brush(value.get("rle"), size, where)
    height, width = size
    if kind == "polygonlabels":
        points = read_points(value.get("points"), _PER_CENT, 3, where)
        return fill_polygon(size, [(x * width / 100, y * height / 100) for x, y in points])
    if value.get("rotation"):
        raise UsageError(f"{where}: is turned by {value['rotation']} degrees, which is not read; draw a polygon")
    extents = ("width", "height") if kind == "rectanglelabels" else ("radiusX", "radiusY")
    given = [[value.get(key) for key in keys] for keys in (("x", "y"), extents)]
    (x, y), (across, down) = read_points(given, _PER_CENT, 2, where)
    x, across, y, down = x * width / 100, across * width / 100, y * height / 100, down * height / 100
    if kind == "rectanglelabels":
        return fill_rectangle(size, [(x, y), (x + across, y + down)])
    return fill_ellipse(size, (x, y), (across, down))


def _label(region: dict[str, Any]) -> str | None:
    first = next(iter(_labels(region)), None)
    return first if isinstance(first, str) else None


def _labels(region: dict[str, Any]) -> list[Any]:
    value = region.get("value")
    labels = value.get(str(region.get("type"))) if isinstance(value, dict) else None
    return labels if isinstance(labels, list) else []


def _result(task: Any) -> tuple[list[dict[str, Any]] | None, bool]:
    """Regions of a task's annotation, none where it has none; and whether there are several to choose from.

    Those that were cancelled do not count. The one that is marked as ground truth goes before the others.
    """
    annotations = task.get("annotations") if isinstance(task, dict) else None
    drawn: list[tuple[bool, list[dict[str, Any]]]] = []
    for annotation in annotations if isinstance(annotations, list) else ():
        regions = annotation.get("result") if isinstance(annotation, dict) else None
        if isinstance(regions, list) and not annotation.get("was_cancelled"):
            areas = [region for region in regions if isinstance(region, dict) and _is_drawn(region)]
            drawn += [(not annotation.get("ground_truth"), areas)] if areas else []
    chosen = min(drawn, key=lambda found: found[0], default=(False, None))
    return chosen[1], len(drawn) > 1


def _is_drawn(region: dict[str, Any]) -> bool:
    """Whether a region lies on the picture; choices and texts about the whole are none."""
    return "original_width" in region or str(region.get("type")).endswith("labels")


def _picture_name(task: Any, where: str) -> str:
    """Path of the picture as the export has it: an upload, a file of a local storage (`?d=`), or an address."""
    values = [value for value in field(task, "data", dict, where).values() if isinstance(value, str)]
    for value in (*values, str(task.get("file_upload"))):
        path = unquote(value).replace("\\", "/")
        path = path.partition("?d=")[2] or path.partition("?")[0]
        if path.lower().endswith(IMAGE_SUFFIXES):
            return path
    raise UsageError(f"{where}: its data name no picture")


def _names(path: str) -> list[str]:
    """Names that a picture may have below the folder: the ends of its path, and without the mark of an upload."""
    parts = PurePosixPath(path).parts
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return [*ends, _UPLOADED.sub("", parts[-1])]


def _pictures(root: Path) -> dict[str, Path]:
    """Pictures below a folder by their paths, and by their names where one has it."""
    paths = [Path(path) for path in walk_files(root) if path.lower().endswith(IMAGE_SUFFIXES)]
    of_name = Counter(path.name for path in paths)
    by_name = {path.name: path for path in paths if of_name[path.name] == 1}
    return by_name | {path.relative_to(root).as_posix(): path for path in paths}


def _tasks(path: Path) -> list[Any]:
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise UsageError(f"{path}: must be a list of tasks, as Label Studio exports it (JSON, not JSON-MIN)")
    return tasks


def _splits(root: Path) -> dict[str, list[Path]]:
    """Exports of each split."""
    paths = [path for path in files_in(root, ".json", most=20) if _is_export(path)]
    if any(path.stem.lower() in USUAL_SPLITS for path in paths):
        return {path.stem: [path] for path in paths}
    return {"train": paths} if paths else {}


def _is_export(path: Path) -> bool:
    with path.open("rb") as file:
        return _IS_EXPORT.search(file.read(_SNIFFED_BYTES)) is not None


LAYOUT = Layout(
    parts=("labels",),
    signs="Label Studio's export as JSON",
    is_here=lambda root: bool(_splits(root)),
    splits=lambda root: [*_splits(root)],
    open=LabelStudioData,
)
