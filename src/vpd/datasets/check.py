"""Read a whole data set once and say what is in it and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vpd.data.sample import CountedDepth, SampleSet
from vpd.datasets.findings import Findings, SplitFindings
from vpd.datasets.layouts import (
    TRAIN_NAMES,
    check_options,
    detect_format,
    find_layout,
    open_data,
    option_names,
    splits_of,
)
from vpd.datasets.refer import DATASETS, find_splits
from vpd.datasets.teachable import exif_question, find_faults
from vpd.errors import UsageError
from vpd.weights.shipped import WORLD

Progress = Callable[[Iterable[int], str], Iterable[int]]
"""Wraps the indices of the samples of a split."""

_OPTIONS: dict[str, Any] = {"unpaired": "skip", "per_sentence": False}
"""How a data set is opened, where its layout has these options, to see as much of it as possible, each file once."""

OPTIONAL_SPLITS = ("official_train",)
"""Splits that no benchmark figure needs."""


def check_data(
    format: str | None,  # noqa: A002
    root: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    progress: Progress = lambda indices, split: indices,
) -> Findings:
    """Read every sample of every split.

    Args:
        format: Layout, one of `LAYOUTS`; none = detect it.
        root: Folder of the data set.
        options: Options of the layout's reader, such as `split_by` or `list_file`.
        progress: Wraps the indices of a split, to show how far it is.

    Raises:
        UsageError: If the format or an option is unknown, the folder has another layout, or there are no files to
            read; what is wrong with single files is in the report.
    """
    root, options = Path(root), dict(options or {})
    format = format or detect_format(root)  # noqa: A001
    if format == WORLD:
        raise UsageError(f"{format}: its scenes are rendered when they are asked for; there are no files to check.")
    splits = splits_of(root, format)
    check_options(format, options)
    layout = find_layout(format)
    full = layout.full
    if "split_by" in options and options["split_by"] != DATASETS.get(format):
        splits, full = find_splits(root / format, options["split_by"]), {}
    elif "list_file" in options:
        full = {}
    known = option_names(layout)
    options = {name: value for name, value in _OPTIONS.items() if name in known} | options
    reports = tuple(_check_split(format, root, split, full.get(split), options, progress) for split in splits)
    absent = [split for split in full if split not in splits and split not in OPTIONAL_SPLITS]
    return Findings(root, format, reports, (f"not there: {', '.join(absent)}",) if absent else ())


def check_samples(
    sample_set: SampleSet,
    *,
    split: str = "train",
    full: int | None = None,
    progress: Progress = lambda indices, split: indices,
) -> SplitFindings:
    """Read every sample of a set, which may be of a class of your own.

    Args:
        sample_set: The samples.
        split: What the report calls them.
        full: How many there should be, if that is known.
        progress: Wraps the indices, to show how far it is.
    """
    report = SplitFindings(split, len(sample_set), full)
    report.notes += getattr(sample_set, "notes", ())
    report.unpaired += getattr(sample_set, "unpaired", ())
    classes, counted = getattr(sample_set, "classes", ()), getattr(sample_set, "counted", CountedDepth())
    report.range_m = counted.max_depth_m
    for index in progress(range(len(sample_set)), split):
        try:
            report.add(sample_set[index], classes, counted)
            complaint = sample_set.complaint(index) if hasattr(sample_set, "complaint") else None
            report.problems += [f"{split}/{complaint}"] if complaint else []
        except UsageError as error:
            report.problems.append(str(error))
    reading = sample_set.reading() if hasattr(sample_set, "reading") else {}
    is_whole = report.sizes.total() == len(sample_set)  # what could not be read may hold what the others lack
    faults = find_faults(report, classes, reading, is_whole=is_whole, is_to_learn=split.lower() in TRAIN_NAMES)
    told = [f"{split}: {fault.words}" for fault in faults if fault.is_certain or is_whole]
    report.problems[:0] = told  # first: one may stand for all others
    if report.turned and getattr(sample_set, "exif", None) is None:
        place = report.problems if full is None else report.notes  # everybody reads a benchmark alike
        place.append(f"{split}: {exif_question(report.turned)}")
    return report


def _check_split(
    name: str, root: Path, split: str, full: int | None, options: dict[str, Any], progress: Progress
) -> SplitFindings:
    try:
        sample_set = open_data(root, None, format=name, split=split, **options)
    except UsageError as error:
        return SplitFindings(split, full=full, problems=[str(error)])
    return check_samples(sample_set, split=split, full=full, progress=progress)
