"""Read a whole data set once and say what is in it and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vpd.config import Task
from vpd.data.folder import FolderData
from vpd.data.opening import FORMATS, open_data, splits_of
from vpd.data.samples import Sample
from vpd.errors import UsageError
from vpd.types import IGNORE_LABEL

_OPTIONS: dict[Task, dict[str, Any]] = {"segment": {"unpaired": "skip"}, "refer": {"per_sentence": False}}
"""How a data set is opened to see as much of it as possible, each file once."""


@dataclass
class SplitReport:
    """What one split holds."""

    split: str
    """Its name."""
    samples: int = 0
    """Samples it lists."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Height and width of the images -> how many."""
    pixels_of_class: Counter[str] = field(default_factory=Counter)
    """Class name -> labelled pixels; `(ignored)` for the rest."""
    scenes: Counter[str] = field(default_factory=Counter)
    """Scene class -> images; `(none)` where the name tells nothing."""
    depth_m: tuple[float, float] | None = None
    """Smallest and largest measured depth, metres."""
    measured_share: list[float] = field(default_factory=list)
    """Share of measured pixels of each image."""
    mask_share: list[float] = field(default_factory=list)
    """Share of object pixels of each mask."""
    sentences: int = 0
    """Referring expressions."""
    longest_words: int = 0
    """Words of the longest expression."""
    problems: list[str] = field(default_factory=list)
    """One line for each thing that is wrong."""

    def add(self, sample: Sample, classes: tuple[str, ...]) -> None:
        """Count a sample that could be read."""
        self.sizes[sample.image.shape[0], sample.image.shape[1]] += 1
        if sample.labels is not None:
            counts = np.bincount(sample.labels.ravel(), minlength=256)
            self.pixels_of_class.update({name: int(counts[place]) for place, name in enumerate(classes)})
            self.pixels_of_class["(ignored)"] += int(counts[IGNORE_LABEL])
            if counts[IGNORE_LABEL] == sample.labels.size:
                self.problems.append(f"{self.split}/{sample.name}: every pixel is ignored")
        if sample.depth_m is not None:
            self._add_depth(sample, sample.depth_m[sample.depth_m > 0])
        if sample.mask is not None:
            self.mask_share.append(float(sample.mask.mean()))
            self.sentences += len(sample.texts)
            self.longest_words = max([self.longest_words, *(len(text.split()) for text in sample.texts)])
            if not sample.mask.any():
                self.problems.append(f"{self.split}/{sample.name}: the mask is empty")

    def _add_depth(self, sample: Sample, measured: np.ndarray) -> None:
        self.scenes[sample.scene or "(none)"] += 1
        self.measured_share.append(measured.size / sample.image[..., 0].size)
        if not measured.size:
            self.problems.append(f"{self.split}/{sample.name}: no pixel has a depth")
            return
        near, far = self.depth_m or (np.inf, 0.0)
        self.depth_m = min(near, float(measured.min())), max(far, float(measured.max()))

    def lines(self) -> list[str]:
        """The report of the split, a line for each fact."""
        lines = [f"{self.split}: {self.samples} samples, {len(self.problems)} problems"]
        if self.sizes:
            common = ", ".join(f"{h}x{w} ({n})" for (h, w), n in self.sizes.most_common(3))
            lines.append(f"  sizes (height x width): {common}" + (", ..." if len(self.sizes) > 3 else ""))
        if total := self.pixels_of_class.total():
            shares = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in self.pixels_of_class.items())
            lines.append(f"  pixels: {shares}")
        if self.depth_m:
            share = 100 * float(np.mean(self.measured_share))
            lines.append(
                f"  depth: {self.depth_m[0]:.3f} to {self.depth_m[1]:.3f} m; measured: {share:.1f} % of pixels"
            )
            lines.append("  scenes: " + ", ".join(f"{name} ({n})" for name, n in self.scenes.most_common()))
        if self.mask_share:
            smallest, largest = (100 * share for share in (min(self.mask_share), max(self.mask_share)))
            lines.append(f"  masks: {smallest:.2f} to {largest:.1f} % of the image")
            lines.append(f"  sentences: {self.sentences}, the longest of {self.longest_words} words")
        return lines


@dataclass(frozen=True)
class Report:
    """What a data set holds."""

    root: Path
    """Its folder."""
    format: str
    """Its layout."""
    splits: tuple[SplitReport, ...]
    """Each split."""

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        return [problem for split in self.splits for problem in split.problems]


def check_data(
    format: str,  # noqa: A002
    root: str | Path,
    *,
    progress: Callable[[Iterable[int], str], Iterable[int]] = lambda indices, split: indices,
) -> Report:
    """Read every sample of every split.

    Args:
        format: Layout, one of `FORMATS`.
        root: Folder of the data set.
        progress: Wraps the indices of a split, to show how far it is.

    Raises:
        UsageError: If the format is unknown or the folder has another layout; what is wrong with single files is
            in the report.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown data format {format!r}; choose one of: {', '.join(FORMATS)}")
    reports = tuple(_check_split(format, Path(root), split, progress) for split in splits_of(root, format))
    return Report(Path(root), format, reports)


def _check_split(
    name: str, root: Path, split: str, progress: Callable[[Iterable[int], str], Iterable[int]]
) -> SplitReport:
    report = SplitReport(split)
    task = FORMATS[name]
    try:
        sample_set = open_data(root, task, format=name, split=split, **_OPTIONS.get(task, {}))
    except UsageError as error:
        report.problems.append(str(error))
        return report
    if isinstance(sample_set, FolderData):
        report.problems += sample_set.unpaired
    report.samples = len(sample_set)
    for index in progress(range(len(sample_set)), split):
        try:
            report.add(sample_set[index], sample_set.classes)
        except UsageError as error:
            report.problems.append(str(error))
    return report
