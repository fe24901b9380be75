"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, a folder of parquet files, or a data set of the hub.

```
dataset_dict.json, train/*.arrow, ...    |    data/train-00000-of-00002.parquet, ...    |    owner/name
```
Columns are named by options; those called image, labels, depth, mask, text and scene need none. Pictures are decoded
here, under this package's limits, from the bytes that stand in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpd.datasets.annotations import expressions_of
from vpd.datasets.class_files import read_class_list
from vpd.datasets.classes import ClassList
from vpd.datasets.coco_masks import Overlap
from vpd.datasets.huggingface_tables import (
    class_names,
    find_columns,
    is_hub_dataset,
    is_table_folder,
    open_table,
    table_splits,
    with_raw_pictures,
)
from vpd.datasets.layout import Layout
from vpd.datasets.records import Record, RecordSamples
from vpd.datasets.sample_reader import scene_names
from vpd.errors import UsageError
from vpd.files.decoding import Encoded


class HuggingFaceData(RecordSamples):
    """Samples with `mask` and `texts`, `labels`, or `depth_m`: whichever columns there are.

    Args:
        root: Folder, or hub id `owner/name`.
        split: Name of the split; `val` and `validation` mean the same.
        image: Column of the images; none = `image`.
        labels: Column of label pictures, or of rows of label numbers; none = `labels` if there is one.
        depth: Column of depth pictures (16 bits or floating point), or of rows of numbers; none = `depth` if
            there is one.
        mask: Column of masks: pictures, polygons or run lengths; none = `mask` if there is one.
        text: Column of expressions, one or a list of them, needed with masks; none = `text` if there is one.
        scene: Column of scene names; none = `scene` if there is one.
        classes: Class names of the labels; or the name of a column whose `ClassLabel` feature has them; none = the
            feature of the labels' own column, or a folder's class list.
        ignore_index: Label value, or values, of pixels that do not count; none = what the class list says, else 255.
        label_map: Class of each label value, by name or number; none = what the class list says.
        reduce_zero_label: Label 0 does not count, and k means class k - 1; none = what the class list says.
        depth_scale: Units of depth in one metre; none = 1000 for whole numbers (millimetres), 1 for
            floating-point numbers (metres).
        max_depth_m: Larger depth counts as not measured, metres; none = all counts.
        overlap: What pixels are where two polygons of one mask overlap: `union` (object) or `background`.
        per_sentence: One sample for each expression (evaluation), or one for each row with all its expressions
            (training); none = for each row in the train split only.
        subset: Configuration of a data set that has several.
        revision: Commit or tag of a data set of the hub; without it a later run may find another one.

    Raises:
        UsageError: If `datasets` is not installed, there is no such data set, split or column, or no class names.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        image: str | None = None,
        labels: str | None = None,
        depth: str | None = None,
        mask: str | None = None,
        text: str | None = None,
        scene: str | None = None,
        classes: Sequence[str] | str | None = None,
        ignore_index: int | Sequence[int] | None = None,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool | None = None,
        depth_scale: float | None = None,
        max_depth_m: float | None = None,
        overlap: Overlap = "union",
        per_sentence: bool | None = None,
        subset: str | None = None,
        revision: str | None = None,
    ) -> None:
        self._where, self._split = f"{root}, split {split}", split
        table = open_table(root, split, subset=subset, revision=revision)
        wanted = {"image": image, "labels": labels, "depth": depth, "mask": mask, "text": text, "scene": scene}
        self._columns = columns = find_columns(table, wanted, self._where)
        listed = None
        if "labels" in columns:
            meaning = {"ignored": ignore_index, "label_map": label_map, "reduce_zero_label": reduce_zero_label}
            listed = self._class_list(Path(root), table, classes, meaning)
            self.notes = listed.notes
        self._set_reader(columns, listed, depth_scale=depth_scale, max_depth_m=max_depth_m, overlap=overlap)
        self._scene_names = class_names(table.features[columns["scene"]]) if "scene" in columns else None
        self._table = with_raw_pictures(table, columns)
        if "depth" in columns:
            found = self._table.unique(columns["scene"]) if "scene" in columns else []
            self.scenes = scene_names(self._scene(value) for value in found)
        counts = np.zeros(len(self._table), dtype=np.int64)  # 0 = all expressions of a row at once
        if "mask" in columns and (split != "train" if per_sentence is None else per_sentence):
            texts = self._table.select_columns([columns["text"]])[:][columns["text"]]
            # a row without expression counts, too: that it has none is said when it is read
            counts = np.array([len(given) if given and isinstance(given, list) else 1 for given in texts])
        rows = np.repeat(np.arange(len(counts)), counts.clip(min=1))
        sentences = np.arange(len(rows)) - np.searchsorted(rows, rows)
        self._items = np.stack([rows, np.where(counts[rows] > 0, sentences, -1)], axis=1)

    def _record(self, *place: int) -> Record:
        (number,) = place
        row = self._table[number]
        where = f"{self._where}, row {number}"
        parts = {
            part: _content(row[column], f"{where}, column {column}", part)
            for part, column in self._columns.items()
            if part in ("image", "labels", "depth", "mask")
        }
        texts = expressions_of(row[self._columns["text"]], where) if "mask" in parts else ()
        name = f"{self._split}_{number:06d}"
        scene = self._scene(row[self._columns["scene"]]) if "scene" in self._columns else None
        return Record(name, parts, texts, scene, group=name if texts else None)

    def _scene(self, value: Any) -> str | None:
        if isinstance(value, int) and self._scene_names and 0 <= value < len(self._scene_names):
            value = self._scene_names[value]
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{self._where}: scene {value!r} in column {self._columns['scene']} is no text")
        return (value or "").strip() or None

    def _class_list(
        self, root: Path, table: Any, classes: Sequence[str] | str | None, meaning: dict[str, Any]
    ) -> ClassList:
        column = classes if isinstance(classes, str) else self._columns["labels"]
        names = class_names(table.features[column]) if column in table.column_names else None
        if isinstance(classes, str):
            if names is None:
                raise UsageError(f"{self._where}: classes={classes} is no column with a ClassLabel feature")
            classes = names
        if names is None:
            return read_class_list(root, classes, **meaning)
        meaning["reduce_zero_label"] = bool(meaning["reduce_zero_label"])
        listed = ClassList(names if classes is None else classes, where=column, **meaning)
        if len(listed.names) != len(names):
            raise UsageError(
                f"{self._where}: classes names {len(listed.names)} classes, but column {column} has {len(names)}"
            )
        return listed


def _content(value: Any, where: str, part: str) -> Any:
    """A cell as a part of a sample: a picture, numbers, or a segmentation."""
    content = value.get("bytes") if isinstance(value, dict) and "bytes" in value else value
    if isinstance(content, bytes):
        return Encoded(content, where)
    if part == "mask" and isinstance(content, (dict, list)):
        return content
    if part in ("labels", "depth") and isinstance(content, list):
        try:
            return np.array(content)
        except ValueError as error:
            raise UsageError(f"{where}: rows of numbers differ in length") from error
    told = "names a file instead of holding its bytes" if isinstance(value, dict) and value.get("path") else "is empty"
    raise UsageError(f"{where}: the cell {told if value is None or isinstance(value, dict) else 'holds no picture'}")


LAYOUT = Layout(
    parts=("labels", "mask", "depth"),
    signs="dataset_dict.json, state.json or *.parquet",
    is_here=is_table_folder,
    splits=table_splits,
    open=HuggingFaceData,
    is_elsewhere=is_hub_dataset,
)
