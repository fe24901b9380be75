"""labelme's JSON files, beside their pictures.

```
street_1.jpg   street_1.json          labels.txt        or in train/, val/, ...; or pictures with their JSON in images/
```
Polygons, rectangles, circles and masks are painted in the file's order; `labels.txt` (or another class list) has the
classes, without it the names that occur are, sorted.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.datasets.annotations import field, read_json
from vpd.datasets.class_files import find_class_list
from vpd.datasets.class_lines import Listed
from vpd.datasets.layout import Layout
from vpd.datasets.name_lists import USUAL_SPLITS, known_split
from vpd.datasets.outlined import Background, Outlined, OutlinedSamples, Painting, listed_names
from vpd.datasets.outlines import (
    decode_base64,
    fill_ellipse,
    fill_polygon,
    fill_rectangle,
    measured_size,
    picture_size,
    place_mask,
    read_points,
)
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.errors import UsageError
from vpd.files.decoding import Encoded
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import some_files, subfolders, walk_files

_SNIFFED_BYTES = 4096
_IS_LABELME = re.compile(rb'"shapes"\s*:\s*\[')


class LabelmeData(OutlinedSamples):
    """Samples with `labels` from labelme's files.

    Args:
        root: Folder with the JSON files, or with a sub-folder of them for each split.
        split: Name of the sub-folder; `train` where there is none.
        classes: Names of the classes; none = the class list of the folder, else the names that occur, sorted.
        background: What pixels without object are: `class`: class 0; `ignore`: not counted.
        unpaired: What to do about JSON files without picture: refuse the folder, or leave them out.

    Raises:
        UsageError: If there is no such split, a file is not labelme's, or a picture is missing.
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
        folders = _folders(self.root)
        split = known_split(self.root, folders, split)
        paths = [Path(path) for path in walk_files(folders[split])]
        annotations = sorted(path for path in paths if path.suffix.lower() == ".json" and _is_labelme(path))
        pictures = {path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}
        stems = Counter(path.stem for path in pictures)
        of_stem = {path.stem: path for path in pictures if stems[path.stem] == 1}
        listed = Listed("classes", classes) if classes is not None else find_class_list(self.root)
        needs_names = listed is None
        found: set[str] = set()
        items, used, missing = [], set(), []
        for path in annotations:
            beside = next((other for other in _beside(path) if other in pictures), None)
            if needs_names or beside is None:  # else the file is read when its sample is wanted
                with suppress(UsageError):  # of a damaged one, which is told then
                    content = _content(path)
                    beside = beside or self._picture(content, path) or of_stem.get(path.stem)
                    beside = beside or (path if content.get("imageData") else None)
                    shapes = [shape for shape in _shapes(content, path) if isinstance(shape, dict)]
                    found |= {label for shape in shapes if isinstance(label := shape.get("label"), str)}
            name = path.relative_to(folders[split]).with_suffix("").as_posix()
            if beside is None:
                missing.append(f"{path}: no picture beside it, and none inside")
                continue
            used.add(beside)
            items.append(Outlined(name, beside, path))
        self.notes = refuse_unpaired(self.root, split, missing, items, unpaired)
        self.items, self.unpaired = items, missing
        self._take_classes(listed or listed_names(found, "labelme's files have no shape"), background)
        if without := len(pictures - used):
            self.notes = (*self.notes, f"{without} pictures have no JSON file: left out")

    def _picture(self, content: Any, path: Path) -> Path | None:
        """The picture that a file names, if it lies below the folder."""
        name = content.get("imagePath")
        if isinstance(name, str) and name.strip() and "\0" not in name:
            named = Path(os.path.normpath(path.parent / name.replace("\\", "/")))
            if named.resolve().is_relative_to(self.root.resolve()) and named.is_file():
                return named
        return None

    def _paint(self, item: Outlined) -> Painting:
        content = _content(item.annotation)
        where, image = str(item.annotation), item.image
        picture: Path | Encoded = image
        if image == item.annotation:
            picture = Encoded(decode_base64(content.get("imageData"), where), f"picture in {where}")
        stated = content.get("imageHeight"), content.get("imageWidth")
        size = measured_size(picture, turn=self.exif != "ignore") if None in stated else picture_size(stated, where)
        labels = np.full(size, self._empty, dtype=np.uint8)
        left_out = []
        for place, shape in enumerate(_shapes(content, item.annotation)):
            which = f"shape {place}"
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                left_out.append(f"{which}: has no label")
                continue
            number = self._number(shape["label"], which)
            try:
                labels[_area(shape, size, which)] = number
            except UsageError as error:
                left_out.append(str(error))
        return Painting(labels, picture, left_out)


def _area(shape: dict[str, Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Pixels of one shape."""
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return fill_polygon(size, read_points(shape.get("points"), size, 3, where))
    if kind not in ("rectangle", "circle", "mask"):
        raise UsageError(f"{where}: {kind!r} is no area; polygons, rectangles, circles and masks are read")
    points = read_points(shape.get("points"), size, 2, where)
    if kind == "rectangle":
        left, top, right, bottom = (
            edge(point[axis] for point in points) for edge in (min, max) for axis in (0, 1)
        )  # four corners where it was turned on the screen
        return fill_rectangle(size, [(left, top), (right, bottom)])
    if kind == "circle":
        radius = math.dist(points[0], points[1])
        return fill_ellipse(size, points[0], (radius, radius))
    return place_mask(size, shape.get("mask"), points[0], where)


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be an object, as labelme writes it")
    return content


def _shapes(content: Any, path: Path) -> list[Any]:
    shapes: list[Any] = field(content, "shapes", list, str(path))
    return shapes


def _beside(path: Path) -> list[Path]:
    endings = [ending for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper())]
    return [path.with_suffix(ending) for ending in endings]


def _is_labelme(path: Path) -> bool:
    with path.open("rb") as file:
        return _IS_LABELME.search(file.read(_SNIFFED_BYTES)) is not None


def _folders(root: Path) -> dict[str, Path]:
    """Folder of each split: sub-folders with labelme's files, or the one folder that has them."""
    places = subfolders(root)
    inside = {place.name: place for place in places if _has_labelme(place)}
    if any(name.lower() in USUAL_SPLITS for name in inside):
        return inside
    if _has_labelme(root) or any(name.lower() in _ONE_FOLDER for name in inside):
        return {"train": root}
    if inside:
        return inside
    # images/train, images/val
    deeper = [split for place in places if place.name.lower() in _ONE_FOLDER for split in subfolders(place)]
    return {place.name: place for place in deeper if _has_labelme(place)}


def _has_labelme(folder: Path) -> bool:
    """Whether a folder has labelme's files, or a folder in it that is no split has."""
    places = [folder, *(place for place in subfolders(folder) if place.name.lower() in _ONE_FOLDER)]
    return any(_is_labelme(path) for place in places for path in some_files(place, (".json",)))


_ONE_FOLDER = ("images", "image", "img", "imgs", "labels", "annotations", "json", "jsons", "data")
"""Names of folders that are no splits."""

LAYOUT = Layout(
    parts=("labels",),
    signs="labelme's JSON files beside pictures",
    is_here=lambda root: bool(_folders(root)),
    splits=lambda root: [*_folders(root)],
    open=LabelmeData,
)
