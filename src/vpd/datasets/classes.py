"""Class names of label pictures, and which of their values is ignored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.datasets.annotations import decode_text, read_json
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL

_FILES = ("classes.json", "classes.txt")
"""Where a folder has its class list; the first that is there counts."""


class LabelTable:
    """What the values of label pictures mean.

    Args:
        meaning: `(256,)` class of each value; 255 = ignored, -1 = the value must not occur.
        complaint: What is said of such a value, with its `{value}`, `{row}` and `{column}`.
    """

    def __init__(self, meaning: NDArray[np.int16], complaint: str) -> None:
        self._meaning, self._complaint = meaning, complaint

    @property
    def reading(self) -> dict[str, Any]:
        """See `SampleSet.reading`; empty where a benchmark decides."""
        return {}

    def check(self, raw: NDArray[Any], place: str) -> NDArray[np.uint8]:
        """Classes of label values, 255 = ignored.

        Args:
            raw: Whole numbers, `(H, W)`.
            place: What messages call them.

        Raises:
            UsageError: If a value has no meaning.
        """
        if raw.dtype.kind not in "bui":
            raise UsageError(f"{place}: labels must be whole numbers, not {raw.dtype}")
        is_byte = (raw >= 0) & (raw <= 255)
        labels = np.where(is_byte, self._meaning[raw.astype(np.uint8)], -1)
        if labels.min() < 0:
            row, column = np.argwhere(labels < 0)[0]
            told = self._complaint.format(value=raw[row, column], row=row, column=column)
            raise UsageError(f"{place}: {told}")
        return labels.astype(np.uint8)


class ClassList(LabelTable):
    """Class names: value `n` is the class `names[n]`, one value is ignored.

    Args:
        names: Class names in the order of the labels.
        ignored: Label value of pixels that do not count.
        where: Where the names stand, for messages.
        is_stated: Whether somebody said what is ignored.

    Raises:
        UsageError: If there are none or too many, one is empty or stands twice, or `ignored` is no 8-bit value.
    """

    def __init__(
        self, names: Sequence[str], *, ignored: int = IGNORE_LABEL, where: str, is_stated: bool = False
    ) -> None:
        is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name.strip() for name in names)
        if not is_list:
            raise UsageError(f"{where}: must be a list of class names, none empty; it is {str(names)[:300]}")
        if not 0 < len(names) < IGNORE_LABEL:
            raise UsageError(f"{where}: {len(names)} classes; 8-bit labels hold 1 to {IGNORE_LABEL - 1}")
        self.names = tuple(name.strip() for name in names)
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise UsageError(f"{where}: class names stand twice: {', '.join(twice)}")
        if not isinstance(ignored, int) or isinstance(ignored, bool) or not 0 <= ignored <= 255:
            raise UsageError(f"{where}: ignore_index is {ignored!r}; it must be 0..255")
        self.ignored, self.is_stated = ignored, is_stated
        meaning = np.full(256, -1, dtype=np.int16)
        meaning[: len(names)] = np.arange(len(names))
        meaning[ignored] = IGNORE_LABEL
        known = f"0..{len(names) - 1}, ignored: {ignored}"
        place = "label {value} at row {row}, column {column}"
        super().__init__(meaning, f"{place} is outside the class list ({known})")

    @property
    def reading(self) -> dict[str, Any]:
        """Values that are ignored, whether somebody said so, and those that are not the number of their class."""
        values = enumerate(self._meaning.tolist())
        named = {str(value): place for value, place in values if place not in (-1, IGNORE_LABEL, value)}
        ignored = np.flatnonzero(self._meaning == IGNORE_LABEL).tolist()
        return {"ignored": ignored, "is_stated": self.is_stated} | ({"label_map": named} if named else {})


def read_class_list(root: Path, names: Sequence[str] | None = None, ignored: int | None = None) -> ClassList:
    """The class list of a folder, `classes.json` or `classes.txt`; options go before what it says.

    Args:
        root: Folder of the data set.
        names: Other names of the same classes; needed where the folder has no list.
        ignored: Label value that does not count; none = what the list says, else 255.

    Raises:
        UsageError: If there is neither list nor names, they differ in number, or either is wrong.
    """
    listed = _read_list(root)
    if listed is None and names is None:
        raise UsageError(
            f"{root}: no class list; looked for {' and '.join(_FILES)}. Add one, or give the names: classes=[...]"
        )
    if listed is None:
        value = IGNORE_LABEL if ignored is None else ignored
        return ClassList(names or (), ignored=value, where="classes", is_stated=ignored is not None)
    if ignored is not None:
        listed = ClassList(listed.names, ignored=ignored, where="ignore_index", is_stated=True)
    if names is None:
        return listed
    given = ClassList(names, ignored=listed.ignored, where="classes", is_stated=listed.is_stated)
    if len(given.names) != len(listed.names):
        raise UsageError(
            f"classes names {len(given.names)} classes, but the list in {root} has {len(listed.names)}: "
            f"{', '.join(listed.names[:8])}{', ...' if len(listed.names) > 8 else ''}"
        )
    return given


def _read_list(root: Path) -> ClassList | None:
    """The list in a folder, or none."""
    path = next((root / name for name in _FILES if (root / name).is_file()), None)
    if path is None:
        return None
    if path.suffix == ".txt":
        lines = decode_text(path.read_bytes(), path).splitlines()
        return ClassList([line for line in lines if line.strip()], where=str(path))
    content = read_json(path)
    if not isinstance(content, dict):
        return ClassList(content, where=str(path))
    if not isinstance(content.get("classes"), list):
        raise UsageError(f'{path}: must be a list of class names, or {{"classes": [names]}}')
    ignored, is_stated = content.get("ignore_index", IGNORE_LABEL), "ignore_index" in content
    return ClassList(content["classes"], ignored=ignored, where=str(path), is_stated=is_stated)
