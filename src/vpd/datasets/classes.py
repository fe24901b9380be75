"""Class names of label pictures, and what their values or colours mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.errors import UsageError
from vpd.files.decoding import LOSSLESS_FORMATS, Encoded, decode_file, mode_words
from vpd.files.images import label_values, read_labels
from vpd.tensors import IGNORE_LABEL

BACKGROUND = "background"
"""Name of the class of pixels without object."""
IGNORE_NAME, BACKGROUND_NAME = "__ignore__", "_background_"
"""What labelme calls pixels that do not count (-1, which 8 bits hold as 255), and those without object (0)."""
WITHOUT_OBJECT = "pixels without object (background=class counts them)"
"""What is told of pixels that do not count where `background=ignore`."""
_MUST_NOT_OCCUR = -1


class LabelTable:
    """What the values of label pictures mean.

    Args:
        meaning: `(256,)` class of each value; 255 = ignored, -1 = the value must not occur.
        complaint: What is said of such a value, with its `{value}`, `{row}` and `{column}`.
    """

    def __init__(self, meaning: NDArray[np.int16], complaint: str) -> None:
        self._meaning, self._complaint = meaning, complaint

    def read(self, source: Path | Encoded) -> NDArray[np.uint8]:
        """Label values `(H, W)` of a picture.

        Raises:
            UsageError: If it cannot be read or is no label picture.
        """
        return read_labels(source)

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
        labels = np.where(is_byte, self._meaning[raw.astype(np.uint8)], _MUST_NOT_OCCUR)
        if labels.min() < 0:
            row, column = np.argwhere(labels < 0)[0]
            told = self._complaint.format(value=raw[row, column], row=row, column=column)
            raise UsageError(f"{place}: {told}")
        return labels.astype(np.uint8)


class ClassList(LabelTable):
    """Class names, and the label values that mean them: value `n` is the class `names[n]`, where nothing else is said.

    Args:
        names: Class names in the order of the labels.
        ignored: Label value, or values, of pixels that do not count; none = 255, where it is no class's.
        where: Where the names stand, for messages.
        label_map: Class, by name or number, of each value; null = ignored.
        reduce_zero_label: Value 0 does not count, and k means class k - 1.
        has_marks: In this list labelme's `__ignore__` is no class, and its `_background_` is called background.

    Raises:
        UsageError: If there are none or too many names, one is empty or stands twice, a value is not of 8 bits, or
            the map names a class that is not there.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        ignored: int | Sequence[int] | None = None,
        where: str,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool = False,
        has_marks: bool = False,
    ) -> None:
        is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name.strip() for name in names)
        if not is_list:
            raise UsageError(f"{where}: must be a list of class names, none empty; it is {str(names)[:300]}")
        stripped = [name.strip() for name in names]
        own_ignored, told = list[int](), list[str]()
        if has_marks:
            stripped, own_ignored, told = _without_marks(stripped)
        if not 0 < len(stripped) < IGNORE_LABEL:
            raise UsageError(f"{where}: {len(stripped)} classes; 8-bit labels hold 1 to {IGNORE_LABEL - 1}")
        self.names = tuple(stripped)
        self.notes: tuple[str, ...] = tuple(f"{where}: {note}" for note in told)
        """What is worth saying of the list."""
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise UsageError(f"{where}: class names stand twice: {', '.join(twice)}")
        given = [ignored] if isinstance(ignored, int) else [IGNORE_LABEL] if ignored is None else ignored
        if not isinstance(given, (list, tuple)) or not all(is_byte(value) for value in given):
            raise UsageError(f"{where}: ignore_index is {ignored!r}; it must be 0..255, or a list of such numbers")
        self.ignored = tuple(dict.fromkeys((*given, *own_ignored)))
        """Label values that do not count."""
        self.is_stated = ignored is not None or label_map is not None or reduce_zero_label or bool(own_ignored)
        """Whether somebody said what is ignored."""
        meaning = np.full(256, _MUST_NOT_OCCUR, dtype=np.int16)
        if label_map is not None:
            if reduce_zero_label or own_ignored:
                raise UsageError(f"{where}: label_map says what each value means; leave the other out")
            self._read_map(meaning, label_map, where)
            mapped = [value for value in self.ignored if 0 <= meaning[value] < IGNORE_LABEL]
            if mapped and ignored is not None:
                raise UsageError(f"{where}: label_map and ignore_index both have {mapped[0]}; leave it out of one")
            self.ignored = tuple(value for value in self.ignored if value not in mapped)
        else:
            kept = [value for value in range(len(stripped) + len(own_ignored)) if value not in own_ignored]
            first = 1 if reduce_zero_label else 0
            meaning[np.array(kept) + first] = np.arange(len(stripped))
            self.ignored = tuple(dict.fromkeys((*given, *(value + first for value in own_ignored))))
        meaning[list(self.ignored) + ([0] if reduce_zero_label else [])] = IGNORE_LABEL
        counting = np.flatnonzero((meaning >= 0) & (meaning < IGNORE_LABEL)).tolist()
        known = f"{_ranges(counting)}, ignored: {_ranges(np.flatnonzero(meaning == IGNORE_LABEL).tolist())}"
        super().__init__(
            meaning, f"label {{value}} at row {{row}}, column {{column}} is outside the class list ({known})"
        )

    def _read_map(self, meaning: NDArray[np.int16], label_map: Mapping[Any, Any], where: str) -> None:
        if not isinstance(label_map, Mapping) or not label_map:
            raise UsageError(f"{where}: label_map must map label values to classes, as in {{7: road, 8: sky}}")
        for key, name in label_map.items():
            value = int(key) if isinstance(key, str) and key.strip().lstrip("-").isdecimal() else key
            if value == -1 and name is None:
                continue  # 255 in 8 bits, which is ignored anyway
            if not is_byte(value):
                raise UsageError(f"{where}: label_map has the value {key!r}; it must be 0..255")
            if name is None:
                meaning[value] = IGNORE_LABEL
            elif name in self.names:
                meaning[value] = self.names.index(name)
            elif isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(self.names):
                meaning[value] = name
            else:
                raise UsageError(
                    f"{where}: label_map gives {value} the class {name!r}, which is not among: {', '.join(self.names)}"
                )

    @property
    def reading(self) -> dict[str, Any]:
        """Values that are ignored, whether somebody said so, and those that are not the number of their class."""
        values = enumerate(self._meaning.tolist())
        named = {str(value): place for value, place in values if place not in (_MUST_NOT_OCCUR, IGNORE_LABEL, value)}
        ignored = np.flatnonzero(self._meaning == IGNORE_LABEL).tolist()
        return {"ignored": ignored, "is_stated": self.is_stated} | ({"label_map": named} if named else {})


class ColourList(ClassList):
    """Class names, and the colours of label pictures that mean them.

    Args:
        names: Class names.
        colours: Red, green and blue, 0..255, of each.
        ignored_colours: Colours of pixels that do not count.
        where: Where they stand, for messages.
        ignored: Classes, by their numbers, that do not count; none = all count.
        has_numbers: Pictures of one channel, also with a palette, hold the numbers of the classes, not colours.
        has_marks: In this list labelme's `_background_` is called background.

    Raises:
        UsageError: If there is not one colour for each class, or one stands twice.
    """

    def __init__(
        self,
        names: Sequence[str],
        colours: Sequence[Sequence[int]],
        *,
        ignored_colours: Sequence[Sequence[int]] = (),
        where: str,
        ignored: int | Sequence[int] | None = None,
        has_numbers: bool = False,
        has_marks: bool = False,
    ) -> None:
        super().__init__(names, ignored=ignored, where=where, has_marks=has_marks)
        self.colours, self._has_numbers = colours, has_numbers
        if len(self.names) != len(colours):
            raise UsageError(f"{where}: {len(self.names)} classes and {len(colours)} colours; each class needs one")
        every = [*colours, *ignored_colours]
        for colour in every:
            if not isinstance(colour, (list, tuple)) or len(colour) != 3 or not all(map(is_byte, colour)):
                raise UsageError(f"{where}: {colour!r} is no colour; it must be [red, green, blue], each 0..255")
        codes = np.array(every, dtype=np.int64) @ _WEIGHTS
        if len(set(codes.tolist())) < len(codes):
            raise UsageError(f"{where}: a colour stands twice; it can mean one class only")
        self._codes, self._places = np.sort(codes), np.argsort(codes)
        self._meaning[IGNORE_LABEL] = IGNORE_LABEL
        self.is_stated = True

    def read(self, source: Path | Encoded) -> NDArray[np.uint8]:
        """Numbers of the classes, `(H, W)`, of a picture in colours; 255 where they do not count.

        Raises:
            UsageError: If it cannot be read, is transparent, or has a colour that is in no list.
        """
        image, raw_mode, _ = decode_file(source, LOSSLESS_FORMATS)
        if self._has_numbers and image.mode in ("1", "L", "P"):
            return label_values(image, raw_mode, str(source))
        if image.mode not in ("1", "L", "P", "RGB", "RGBA"):
            raise UsageError(f"{source}: labels in colours need 8-bit RGB; this picture has {mode_words(image.mode)}")
        if image.mode == "RGBA" and np.asarray(image)[..., 3].min() < 255:
            raise UsageError(f"{source}: labels in colours must not be transparent; save RGB")
        codes = np.asarray(image.convert("RGB")).astype(np.int64) @ _WEIGHTS
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        strange = self._codes[places] != codes
        if strange.any():
            row, column = np.argwhere(strange)[0]
            colour = tuple(int(part) for part in np.asarray(image.convert("RGB"))[row, column])
            raise UsageError(
                f"{source}: colour {colour} at row {row}, column {column} means no class; known: {self._known()}. "
                "Colours must be exact: masks that were resized or saved as JPEG have others in between"
            )
        numbers = self._places[places]
        return np.where(numbers < len(self.names), numbers, IGNORE_LABEL).astype(np.uint8)

    def _known(self) -> str:
        pairs = [f"{name} {tuple(colour)}" for name, colour in zip(self.names, self.colours, strict=True)]
        return ", ".join(pairs[:8]) + (", ..." if len(pairs) > 8 else "")


_WEIGHTS = np.array([65536, 256, 1])


def is_byte(value: object) -> bool:
    """Whether a value is a whole number of 8 bits; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _without_marks(names: list[str]) -> tuple[list[str], list[int], list[str]]:
    """Names without labelme's marks, the values of those that are ignored, and what to say of it."""
    told = []
    if names and names[0].lower() == IGNORE_NAME:  # labelme counts from -1
        names = names[1:]
        told.append(f"{IGNORE_NAME} is no class, so the next line is class 0")
    ignored = [value for value, name in enumerate(names) if name.lower() == IGNORE_NAME]
    names = [name for name in names if name.lower() != IGNORE_NAME]
    if ignored:
        told.append(f"{IGNORE_NAME} is no class: label {', '.join(map(str, ignored))} does not count")
    if names and names[0].lower() == BACKGROUND_NAME:
        names = ["background", *names[1:]]
    return names, ignored, told


def _ranges(values: Iterable[int]) -> str:
    """Numbers in order, neighbours as ranges."""
    parts: list[list[int]] = []
    for value in values:
        if parts and parts[-1][-1] == value - 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ", ".join(f"{part[0]}..{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
