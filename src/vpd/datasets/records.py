"""A file of lines, one JSON object each, that name images and what is known about them; for all three tasks.

```
{split}.jsonl
  {"image": "pictures/7.jpg", "mask": "masks/7.png", "expressions": ["the cup", "cup on the left"]}    refer
  {"image": "pictures/7.jpg", "labels": "labels/7.png"}                            segment, with classes.json
  {"image": "pictures/7.jpg", "depth": "depth/7.png", "scene": "kitchen"}          depth; scene may be missing
```
Paths lie below the folder of the file. A mask is a picture that is not 0 inside the object, or polygons or run
lengths as COCO has them. `id` names a record; `group` is what resembling records share; expressions: the image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import expressions_of, field, inner_path, naming, parse_json, plain_name
from vpd.datasets.class_files import read_class_list
from vpd.datasets.classes import ClassList
from vpd.datasets.coco_masks import Overlap
from vpd.datasets.layout import Layout
from vpd.datasets.sample_reader import TASK_OF_PART, PartReader, scene_names
from vpd.errors import UsageError
from vpd.files.walk import files_in

_SNIFFED_BYTES = 2**20


@dataclass(frozen=True)
class Record:
    """What is known of one image before its pictures are read."""

    name: str
    """Unique within its data set."""
    parts: dict[str, Any]
    """The image and what is known of its pixels, as `PartReader.sample` takes them."""
    texts: tuple[str, ...] = ()
    """Expressions that mean its mask."""
    scene: str | None = None
    """Scene class, where known."""
    group: str | None = None
    """What records that resemble each other share."""
    where: str = ""
    """Goes before what is wrong with its files; empty = they say themselves where they lie."""


class RecordSamples(SampleSet):
    """Samples with `mask` and `texts`, `labels`, or `depth_m`: all of a data set have the same of them."""

    _items: NDArray[np.int64]
    """`(samples, n)`: where the record of each sample is found, and last which of its expressions; -1 = all."""
    _reader: PartReader

    def _set_reader(
        self,
        parts: Iterable[str],
        classes: ClassList | None,
        *,
        depth_scale: float | None,
        max_depth_m: float | None,
        overlap: Overlap,
    ) -> None:
        """Say how the pictures of these parts are read."""
        self.parts = tuple(part for part in TASK_OF_PART if part in set(parts))
        self._reader = PartReader(classes, depth_scale, max_depth_m, overlap)
        self.classes = classes.names if classes else ()
        self.counted = self._reader.counted

    @abstractmethod
    def _record(self, *place: int) -> Record:
        """The record at a place."""

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        """Read one record's files.

        Raises:
            UsageError: If a file is missing or cannot be read, or the parts do not fit together.
        """
        *place, sentence = self._items[index].tolist()
        record = self._record(*place)
        name, texts = record.name, record.texts
        if sentence >= 0:
            name, texts = f"{name}_{sentence}", texts[sentence : sentence + 1]
        with naming(record.where):
            return self._reader.sample(
                name, texts=texts, scene=record.scene, group=record.group, exif=self.exif, **record.parts
            )

    def reading(self) -> dict[str, Any]:
        """As the reader of the pictures has it."""
        return self._reader.reading


def sentences_of(count: int) -> Iterable[int]:
    """Last numbers of the items that a record makes: one for each of some expressions; with 0, one for all (-1)."""
    return range(count) or (-1,)


class RecordsData(RecordSamples):
    """Samples with `mask` and `texts`, `labels`, or `depth_m`: whichever the first line has, all must have.

    Lines are checked once when the file is opened, and read again when their sample is wanted, so that a file of
    millions of lines takes little memory.

    Args:
        root: Folder with `{split}.jsonl`.
        split: Name of the file.
        classes: Names of the classes of `labels`; needed where the folder has no class list.
        ignore_index: Label value, or values, of pixels that do not count; none = what the class list says, else 255.
        label_map: Class of each label value, by name or number; none = what the class list says.
        reduce_zero_label: Label 0 does not count, and k means class k - 1; none = what the class list says.
        depth_scale: Units of depth files in one metre; none = 1000 for whole numbers (millimetres), 1 for
            floating-point numbers (metres).
        max_depth_m: Larger depth counts as not measured, metres; none = all counts.
        overlap: What pixels are where two polygons of one mask overlap: `union` (object) or `background`.
        per_sentence: One sample for each expression (evaluation), or one for each line with all its expressions
            (training); none = for each line in the train split only.
        allow_absolute: Let the file name files outside the folder.

    Raises:
        UsageError: If there is no such split, it is empty, or a line is wrong; it is named.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        ignore_index: int | Sequence[int] | None = None,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool | None = None,
        depth_scale: float | None = None,
        max_depth_m: float | None = None,
        overlap: Overlap = "union",
        per_sentence: bool | None = None,
        allow_absolute: bool = False,
    ) -> None:
        self.root = Path(root)
        self._path = self.root / f"{split}.jsonl"
        if not self._path.is_file():
            present = ", ".join(record_splits(self.root)) or "none"
            raise UsageError(f"{root}: no split {split!r}, which would be {self._path.name}; there are: {present}")
        self._allow_absolute = allow_absolute
        self._per_sentence = split != "train" if per_sentence is None else per_sentence
        self._found: frozenset[str] | None = None
        scenes = self._check_lines()
        found = self._found or frozenset[str]()
        listed = None
        if "labels" in found:
            listed = read_class_list(
                self.root, classes, ignore_index, label_map=label_map, reduce_zero_label=reduce_zero_label
            )
            self.notes = listed.notes
        self._set_reader(found, listed, depth_scale=depth_scale, max_depth_m=max_depth_m, overlap=overlap)
        self.scenes = scene_names(scenes) if "depth" in found else ()

    def sample_keys(self) -> Iterable[str]:
        """Where each sample stands in the file."""
        return (str(item) for item in self._items.tolist())

    def files(self) -> Iterable[Path]:
        """Images and what belongs to them."""
        records = (self._record(*place[:-1]) for place in self._items.tolist())
        return (path for record in records for path in record.parts.values() if isinstance(path, Path))

    def _record(self, *place: int) -> Record:
        offset, number = place
        where = f"{self._path}, line {number}"
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                line = file.readline()
        except OSError as error:
            raise UsageError(f"{where}: cannot be read ({error.strerror})") from error
        return self._parse(line, where, number)

    def _check_lines(self) -> set[str | None]:
        """Check every line, note where each sample stands, and return the scenes that are named."""
        places: list[tuple[int, int, int]] = []
        lines_of: dict[str, int] = {}
        scenes: set[str | None] = set()
        offset = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{self._path}, line {number}"
                    record = self._parse(line, where, number)
                    if record.name in lines_of:
                        raise UsageError(f"{where}: id {record.name!r} stands in line {lines_of[record.name]} already")
                    lines_of[record.name] = number
                    scenes.add(record.scene)
                    sentences = sentences_of(len(record.texts) if self._per_sentence else 0)
                    places += [(offset, number, sentence) for sentence in sentences]
                offset += len(line)
        if not places:
            raise UsageError(f"{self._path}: the file has no line; the {self._path.stem} split is empty")
        self._items = np.array(places, dtype=np.int64)
        return scenes

    def _parse(self, line: bytes, where: str, number: int) -> Record:
        """What a line says, checked; the first one decides which parts all must have."""
        content = parse_json(line, where)
        image = self._inner(field(content, "image", str, where), where)
        parts = {part: content[part] for part in TASK_OF_PART if content.get(part) is not None}
        if self._found is None:
            if not parts:
                raise UsageError(f"{where}: has none of {', '.join(TASK_OF_PART)}; an image alone teaches nothing")
            self._found = frozenset(parts)
        if set(parts) != self._found:
            raise UsageError(
                f"{where}: has {', '.join(sorted(parts)) or 'nothing'} where the lines before have "
                f"{', '.join(sorted(self._found))}; all lines of a file must have the same"
            )
        for part, value in parts.items():
            if isinstance(value, str):
                parts[part] = self._inner(value, where)
            elif part != "mask" or not isinstance(value, (list, dict)):
                raise UsageError(f"{where}: {part!r} must be a path" + " or a segmentation" * (part == "mask"))
        given = content.get("expressions", content.get("expression"))
        texts = expressions_of(given, where) if "mask" in parts else ()
        scene, group = (content.get(key) for key in ("scene", "group"))
        for key, value in (("scene", scene), ("group", group)):
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise UsageError(f"{where}: {key!r} is {value!r}; it must be a text, or left out")
        if group is None and texts:
            group = content["image"]  # expressions about one picture resemble each other
        name = f"{image.stem}_{number}" if "id" not in content else plain_name(content["id"], where)
        return Record(name, {"image": image, **parts}, texts, scene.strip() if scene else None, group, where)

    def _inner(self, name: str, where: str) -> Path:
        return self.root / inner_path(name.replace("\\", "/"), where, allow_absolute=self._allow_absolute)


def record_splits(root: Path) -> list[str]:
    """Splits that a folder of this layout offers: its files that begin like records."""
    splits = []
    for path in files_in(root, ".jsonl"):
        with path.open("rb") as file:
            head = file.readline(_SNIFFED_BYTES)
        if b'"image"' in head and any(f'"{part}"'.encode() in head for part in TASK_OF_PART):
            splits.append(path.stem)
    return splits


LAYOUT = Layout(
    parts=("labels", "mask", "depth"),
    signs="SPLIT.jsonl with an image in each line",
    is_here=lambda root: bool(record_splits(root)),
    splits=record_splits,
    open=RecordsData,
)
