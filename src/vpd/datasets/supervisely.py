"""Supervisely's projects: `meta.json`, and data sets of pictures with a JSON file each.

```
meta.json
train/img/street_1.jpg   train/ann/street_1.jpg.json        split train; likewise val, ...
ds0/img/street_1.jpg     ds0/ann/street_1.jpg.json          where no data set is called train: all of them are
```
Polygons, bitmaps and rectangles are painted in the file's order; classes are those of `meta.json`, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.datasets.annotations import field, read_json
from vpd.datasets.class_lines import Listed
from vpd.datasets.layout import Layout
from vpd.datasets.name_lists import USUAL_SPLITS, known_split
from vpd.datasets.outlined import Background, Outlined, OutlinedSamples, Painting
from vpd.datasets.outlines import fill_polygon, fill_rectangle, picture_size, place_mask, read_points
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import subfolders, walk_files

META, IMAGES, ANNOTATIONS = "meta.json", "img", "ann"


class SuperviselyData(OutlinedSamples):
    """Samples with `labels` from a Supervisely project.

    Args:
        root: Folder of the project, with `meta.json`.
        split: Name of a data set of it; `train` also means all, where none is called so.
        classes: Other names of the same classes.
        background: What pixels without object are: `class`: class 0; `ignore`: not counted.
        unpaired: What to do about pictures without JSON file and the reverse: refuse the folder, or leave them out.

    Raises:
        UsageError: If there is no such split, `meta.json` has no classes, or files lack their partner.
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
        splits = _folders(self.root)
        split = known_split(self.root, splits, split)
        items, missing = [], []
        for folder in splits[split]:
            prefix = f"{folder.relative_to(self.root).as_posix()}/" if len(splits[split]) > 1 else ""
            pictures = {path.name: path for path in map(Path, walk_files(folder / IMAGES))}
            pictures = {name: path for name, path in pictures.items() if path.suffix.lower() in IMAGE_SUFFIXES}
            files = {path.name.removesuffix(".json"): path for path in map(Path, walk_files(folder / ANNOTATIONS))}
            for name in sorted(pictures.keys() | files.keys()):
                if name in pictures and name in files:
                    stem = name.rpartition(".")[0]
                    items.append(Outlined(prefix + stem, pictures[name], files[name]))
                else:
                    kind, end = (ANNOTATIONS, ".json") if name in pictures else (IMAGES, "")
                    missing.append(
                        f"{prefix}{name}: no {(folder / kind).relative_to(self.root).as_posix()}/{name}{end}"
                    )
        self.notes = refuse_unpaired(self.root, split, missing, items, unpaired)
        self.items, self.unpaired = items, missing
        self._titles = _titles(self.root / META)
        if classes is not None and len(classes) != len(self._titles):
            raise UsageError(
                f"classes names {len(classes)} classes, but {self.root / META} has {len(self._titles)}: "
                f"{', '.join(self._titles[:8])}"
            )
        names = self._titles if classes is None else classes
        self._names = dict(zip(self._titles, names, strict=True))
        self._take_classes(Listed(str(self.root / META), names), background)

    def _paint(self, item: Outlined) -> Painting:
        content = read_json(item.annotation)
        where = str(item.annotation)
        stated = field(content, "size", dict, where)
        size = picture_size((stated.get("height"), stated.get("width")), where)
        labels = np.full(size, self._empty, dtype=np.uint8)
        left_out = []
        for place, thing in enumerate(field(content, "objects", list, where)):
            which = f"object {place}"
            title = thing.get("classTitle") if isinstance(thing, dict) else None
            if not isinstance(title, str):
                left_out.append(f"{which}: has no classTitle")
                continue
            number = self._number(self._names.get(title, title), which)
            try:
                labels[_area(thing, size, which)] = number
            except UsageError as error:
                left_out.append(str(error))
        return Painting(labels, item.image, left_out)


def _area(thing: dict[str, Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Pixels of one object."""
    kind = thing.get("geometryType") or ("bitmap" if isinstance(thing.get("bitmap"), dict) else "polygon")
    if kind == "bitmap":
        bitmap = field(thing, "bitmap", dict, where)
        (origin,) = read_points([bitmap.get("origin")], size, 1, where)
        return place_mask(size, bitmap.get("data"), origin, where)
    if kind not in ("polygon", "rectangle"):
        raise UsageError(f"{where}: {kind!r} is no area; polygons, bitmaps and rectangles are read")
    points = field(thing, "points", dict, where)
    if kind == "rectangle":
        return fill_rectangle(size, read_points(points.get("exterior"), size, 2, where))
    outer = read_points(points.get("exterior"), size, 3, where)
    holes = field(points, "interior", list, where) if points.get("interior") else []
    return fill_polygon(size, outer, [read_points(hole, size, 3, where) for hole in holes])


def _titles(path: Path) -> list[str]:
    """Names of the classes of a project."""
    records = field(read_json(path), "classes", list, str(path))
    return [field(record, "title", str, f"{path}, class {place}") for place, record in enumerate(records)]


def _folders(root: Path) -> dict[str, list[Path]]:
    """Data sets of each split."""
    present = [folder for folder in subfolders(root) if (folder / ANNOTATIONS).is_dir()]
    if any(folder.name.lower() in USUAL_SPLITS for folder in present):
        return {folder.name: [folder] for folder in present}
    return {"train": present} if present else {}


LAYOUT = Layout(
    parts=("labels",),
    signs="meta.json and DATASET/ann/ (Supervisely)",
    is_here=lambda root: (root / META).is_file() and bool(_folders(root)),
    splits=lambda root: [*_folders(root)],
    open=SuperviselyData,
)
