"""Labels that mean what a model's outputs mean: classes matched by their names, values held against their number."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL

logger = logging.getLogger(__name__)

_SHOWN = 12


def check_labels(sample: Sample, number: int) -> None:
    """Make sure that labels are below the number of classes, or ignored.

    Raises:
        UsageError: If one is not; names the sample.
    """
    labels = sample.labels
    if labels is None:
        return
    strange = (labels >= number) & (labels != IGNORE_LABEL)
    if labels.dtype.kind != "u":
        strange |= labels < 0
    if strange.any():
        row, column = np.argwhere(strange)[0]
        raise UsageError(
            f"{sample.name}: label {labels[row, column]} at row {row}, column {column} is outside the class list "
            f"(0..{number - 1}, ignored: {IGNORE_LABEL})"
        )


def match_classes(
    sample_set: SampleSet, names: Sequence[str], *, of: str = "the model", known_as: Sequence[str] | None = None
) -> SampleSet:
    """The same samples with labels in the order of some names; the set itself where it has that order already.

    A class that is none of the names is no harm as long as no pixel has it.

    Args:
        sample_set: Samples with labels; where it names no classes, its numbers are taken for those of `names`.
        names: Class names; none = whatever there is.
        of: Whose names they are, for messages.
        known_as: What the data call these classes, where that is something else.

    Raises:
        UsageError: If none of its classes is among the names; and of each sample with a pixel of another class.
    """
    theirs, wanted = tuple(getattr(sample_set, "classes", ())), tuple(known_as or names)
    if not names or (theirs == wanted and wanted == tuple(names)):
        return sample_set
    if not theirs:
        return MatchedLabels(sample_set, np.arange(len(names)), names, (), of)
    if not set(theirs) & set(wanted):
        raise UsageError(
            f"None of the data's classes is one of {of}'s, so their labels mean something else. "
            f"{both(theirs, names, of)} Where the same classes have other names, give them in the data's order: "
            "-s classes=[...]."
        )
    table = np.array([wanted.index(name) if name in wanted else -1 for name in theirs])
    if moved := [name for place, name in zip(table.tolist(), theirs, strict=True) if theirs.index(name) != place >= 0]:
        logger.info(
            "Classes are matched by name: %r is number %d in the data and %d in %s.",
            *(moved[0], theirs.index(moved[0]), wanted.index(moved[0]), of),
        )
    if lost := [name for name in theirs if name not in wanted]:
        logger.warning("Classes of the data that are none of %s's: %s. No pixel may have them.", of, ", ".join(lost))
    return MatchedLabels(sample_set, table, names, theirs, of)


def both(of_data: Sequence[str], names: Sequence[str], of: str) -> str:
    """Two class lists in a message."""
    return f"The data: {shortened(of_data)}. {of[:1].upper()}{of[1:]}: {shortened(names)}."


def shortened(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")


class MatchedLabels(SampleSet):
    """Samples whose labels get other numbers.

    Args:
        sample_set: The samples.
        table: New number of each class; -1 = no pixel may have it.
        names: Names of the new numbers.
        theirs: Names of the old ones, where they are known.
        of: Whose names the new ones are, for messages.
    """

    def __init__(
        self, sample_set: SampleSet, table: NDArray[np.int64], names: Sequence[str], theirs: Sequence[str], of: str
    ) -> None:
        self._samples, self._table, self._theirs, self._of = sample_set, table, tuple(theirs), of
        self.classes = tuple(names)
        values: Sequence[int] | None = getattr(sample_set, "label_values", None)
        if values is not None and sorted(table.tolist()) == list(range(len(names))):
            self.label_values = tuple(values[place] for place in np.argsort(table).tolist())
        for name in ("scenes", "parts", "counted", "unpaired", "notes", "exif"):
            if hasattr(sample_set, name):
                setattr(self, name, getattr(sample_set, name))

    def __len__(self) -> int:
        return len(self._samples)

    def sample_keys(self) -> Iterable[str]:
        """As the set has them."""
        return self._samples.sample_keys() if hasattr(self._samples, "sample_keys") else ()

    def __getitem__(self, index: int) -> Sample:
        """A sample with its new labels.

        Raises:
            UsageError: If a label is outside the class list, or of a class that the names lack.
        """
        sample = self._samples[index]
        if sample.labels is None:
            return sample
        check_labels(sample, len(self._table))
        table = np.full(256, IGNORE_LABEL, dtype=np.int64)
        table[: len(self._table)] = self._table
        labels = table[sample.labels]
        if labels.min() < 0:
            name = self._theirs[int(np.asarray(sample.labels)[labels < 0][0])]
            raise UsageError(
                f"{sample.name}: has pixels of the class {name!r}, which is none of {self._of}'s. "
                f"{both(self._theirs, self.classes, self._of)} Where it is one of them under another name, give the "
                "names in the data's order: -s classes=[...]."
            )
        return replace(sample, labels=labels.astype(np.uint8))

    def complaint(self, index: int) -> str | None:
        """As the set has it."""
        return self._samples.complaint(index) if hasattr(self._samples, "complaint") else None

    def files(self) -> Any:
        """As the set has them."""
        return self._samples.files() if hasattr(self._samples, "files") else ()

    def reading(self) -> Any:
        """As the set has it."""
        return self._samples.reading() if hasattr(self._samples, "reading") else {}
