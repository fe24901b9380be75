"""Data sets of pictures with one annotation file each, whose objects are painted on a label picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import naming
from vpd.datasets.class_lines import Listed
from vpd.datasets.classes import BACKGROUND, BACKGROUND_NAME, IGNORE_NAME, WITHOUT_OBJECT, ClassList
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError
from vpd.files.decoding import Encoded
from vpd.tensors import IGNORE_LABEL

Background = Literal["class", "ignore"]


def listed_names(found: set[str], nothing: str) -> Listed:
    """A class list of the names that occur, sorted.

    Args:
        found: The names.
        nothing: What is said where there are none.

    Raises:
        UsageError: If there is none.
    """
    found = {name.strip() for name in found if name.strip()}
    if not found:
        raise UsageError(f"{nothing} with a label: nothing to learn")
    names = sorted(found - {IGNORE_NAME, BACKGROUND_NAME}) or [BACKGROUND_NAME]
    note = f"classes as found, sorted: {', '.join(names)}; a class list, such as classes.txt, sets their order"
    return Listed("labels that occur", names, notes=(note,))


class Outlined(NamedTuple):
    """A picture and the file of its objects."""

    name: str
    """Of the sample."""
    image: Path
    """Image file."""
    annotation: Path
    """Annotation file."""


class Painting(NamedTuple):
    """What an annotation file says."""

    labels: NDArray[np.uint8]
    """`(H, W)`."""
    image: Path | Encoded
    """The picture: where it lies, or as it stands in the file."""
    left_out: list[str]
    """A line for each object that is no area, or is damaged."""


class OutlinedSamples(SampleSet):
    """Samples with `labels`, painted when they are asked for; later objects lie on earlier ones.

    Readers set `items`, call `_take_classes`, and say in `_paint` what an annotation file means.
    """

    items: Sequence[Outlined] = ()
    """What each sample is made of."""
    _reader: PartReader
    _empty: int

    def __len__(self) -> int:
        return len(self.items)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (item.name for item in self.items)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and paint its objects.

        Raises:
            UsageError: If the picture or the annotation cannot be read, sizes differ, or a class is not in the list.
        """
        item = self.items[index]
        with naming(str(item.annotation)):
            painting = self._paint(item)
            group = item.name.rpartition("/")[0] if self._has_groups else ""
            sample = self._reader.sample(
                item.name, image=painting.image, labels=painting.labels, group=group or None, exif=self.exif
            )
            return replace(sample, left_out=tuple(painting.left_out))

    def files(self) -> Iterable[Path]:
        """Annotation files; a picture may stand in its own."""
        return (item.annotation for item in self.items)

    def reading(self) -> dict[str, Any]:
        """As the reader of the pictures has it; the values are made here, so no list could change them."""
        marked = f"objects called {IGNORE_NAME} (give them the name of their class)"
        return {**self._reader.reading, "ignored_words": WITHOUT_OBJECT if self._empty else marked}

    @abstractmethod
    def _paint(self, item: Outlined) -> Painting:
        """The labels of a picture."""

    def _take_classes(self, listed: Listed, background: Background) -> None:
        """Take a list of names, with a class for pixels without object before it where it has none.

        Raises:
            UsageError: If the list is wrong, or the option unknown.
        """
        if background not in ("class", "ignore"):
            raise UsageError(f"background={background!r}; choose class or ignore")
        self._has_groups = len({item.name.rpartition("/")[0] for item in self.items}) > 1  # else they tell nothing
        table = listed.table()
        names, notes = table.names, [*table.notes]
        own = next((name for name in names if name.lower() in (BACKGROUND, BACKGROUND_NAME)), None)
        if background == "ignore":
            self._empty = IGNORE_LABEL
        else:
            names = (own or BACKGROUND, *(name for name in names if name != own))
            self._empty = 0
            notes.append(f"pixels without object are class 0, {names[0]}; background=ignore leaves them out")
        self.classes = names
        self.notes = (*self.notes, *notes)
        self._reader = PartReader(classes=ClassList(names, ignored=IGNORE_LABEL, where=listed.where))

    def _number(self, label: Any, where: str) -> int:
        """Number of an object's class.

        Raises:
            UsageError: If the list has no such class.
        """
        label = label.strip() if isinstance(label, str) else label  # as the list's names are
        if label == IGNORE_NAME:
            return IGNORE_LABEL
        if label == BACKGROUND_NAME and label not in self.classes:
            return self.classes.index(BACKGROUND) if BACKGROUND in self.classes else self._empty
        if label not in self.classes:
            raise UsageError(f"{where}: class {label!r} is not in the list: {', '.join(self.classes)}")
        return self.classes.index(label)
