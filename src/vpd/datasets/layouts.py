"""From a folder that someone has to a sample set: which layout it is, and what is missing if it is none.

A layout of your own is one file and one line:

1. The file has a class that inherits from `vpd.data.sample.SampleSet`, takes `(root, split, *, options...)`, and has
   `__len__`, `__getitem__` (a `Sample`; a `UsageError` that names the file where one cannot be read), and `classes` or
   `scenes`. Annotated pictures are best read by `PartReader`; pairs of files begin at `PairSamples`, annotations of
   which each line is a sample at `RecordSamples`.
2. It ends with a `LAYOUT` that says which parts the samples have, what a folder is known by, and its splits.
3. The line in `LAYOUTS` below gives it its name, by which `--format` and everything else finds it.

A sample set needs no layout to be used from Python: `check_samples(samples)`, `SampleStream(samples, ...)` and
`evaluate(model, samples)` take any.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vpd.config import Recipe, Task
from vpd.data.sample import Exif, SampleSet
from vpd.datasets import (
    ade20k,
    cityscapes,
    coco,
    folders,
    huggingface,
    kitti,
    label_studio,
    labelme,
    nyu,
    records,
    refer,
    shards,
    supervisely,
    voc,
    world,
)
from vpd.datasets.layout import Layout
from vpd.datasets.sample_reader import part_of, tasks_of
from vpd.datasets.world import is_world
from vpd.errors import UsageError
from vpd.files.walk import subfolders
from vpd.weights.shipped import WORLD

logger = logging.getLogger(__name__)

_LOOKED_INTO = 20
"""Sub-folders in which a data set is looked for where a folder is none."""

LAYOUTS: dict[str, Layout] = {
    "folder": folders.LAYOUT,
    "nyu": nyu.LAYOUT,
    "ade20k": ade20k.LAYOUT,
    "cityscapes": cityscapes.LAYOUT,
    "kitti": kitti.LAYOUT,
    **refer.LAYOUTS,
    "depth_folder": folders.DEPTH_LAYOUT,
    "voc": voc.LAYOUT,
    "labelme": labelme.LAYOUT,
    "supervisely": supervisely.LAYOUT,
    "label_studio": label_studio.LAYOUT,
    **coco.LAYOUTS,
    "records": records.LAYOUT,
    "huggingface": huggingface.LAYOUT,
    "shards": shards.LAYOUT,
    WORLD: world.LAYOUT,
}
"""Name of each layout, as `--format` takes it; looked for in this order."""

TRAIN_NAMES = ("train", "training", "trainval")
"""What splits to learn from may be called, in any case."""
VALIDATION_NAMES, TEST_NAME = ("val", "valid", "validation", "dev"), "test"
"""What the split to validate on may be called, in any case, and what stands in where there is none."""


def open_data(
    root: str | Path,
    task: Task | None,
    *,
    format: str | None = None,  # noqa: A002
    split: str = "train",
    **options: Any,
) -> SampleSet:
    """Open a data set.

    Args:
        root: Its folder.
        task: What it is to be used for; none = whatever it can be used for.
        format: Layout, one of `LAYOUTS`; none = detect it, and log which it is.
        split: Part of the data set.
        options: Keyword arguments of the layout's class, such as `FolderData`, `NyuDepth` or `ReferData`; and `exif`:
            `apply` (as if it were left out) turns pictures as their EXIF orientation says, `ignore` takes them as they
            lie in the file, as tools do that labelled them so.

    Raises:
        UsageError: If the folder is missing or has no known layout, the layout is for another task, or an option
            is unknown; and whatever the layout finds wrong.
    """
    if format is None:
        format = detect_format(root, task)  # noqa: A001
        logger.info("%s: %s layout", root, format)
    if task is not None and (format not in LAYOUTS or part_of(task) not in LAYOUTS[format].parts):
        raise UsageError(f"{root}: format {format!r} is not for {task}; choose one of: {', '.join(formats_for(task))}")
    layout = find_layout(format)
    check_options(format, options)
    exif = options.pop("exif", None)
    if exif not in (None, *get_args(Exif)):
        raise UsageError(f"exif={exif!r}; choose one of: {', '.join(get_args(Exif))}")
    needed = {"task": task} if layout.takes_task else {}
    opened = layout.open(root, split, **needed, **options)
    opened.exif = exif
    found = opened.parts or layout.parts  # readers of several parts tell which they found
    if task is not None and part_of(task) not in found:
        raise UsageError(f"{root}: its {split} split is for {' and '.join(tasks_of(found))}, not for {task}")
    level = logging.WARNING if opened.unpaired else logging.INFO
    for note in opened.notes if task is not None else ():  # without a task a report is made, which tells them
        logger.log(level, "%s, %s: %s", root, split, note)
    return opened


def formats_for(task: Task) -> list[str]:
    """Names of the layouts for a task."""
    return [name for name, layout in LAYOUTS.items() if part_of(task) in layout.parts]


def option_names(layout: Layout) -> list[str]:
    """Options of a layout's reader that a user can set."""
    decided = set(layout.open.keywords) if isinstance(layout.open, partial) else set()
    decided |= {"task"} if layout.takes_task else set()
    arguments = inspect.signature(layout.open).parameters.items()
    own = [name for name, given in arguments if given.kind is given.KEYWORD_ONLY and name not in decided]
    return own if layout is LAYOUTS[WORLD] else [*own, "exif"]


def check_options(format: str, options: Iterable[str]) -> None:  # noqa: A002
    """Make sure that a layout's reader has all of these options.

    Raises:
        UsageError: If it lacks one; lists what it has.
    """
    known = option_names(find_layout(format))
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(
            f"unknown option of the {format} layout: {', '.join(unknown)}. Known: {', '.join(known) or 'none'}"
        )


def detect_format(root: str | Path, task: Task | None = None) -> str:
    """Name of the layout of a folder, among those for `task`.

    Raises:
        UsageError: If there is no such folder, or not exactly one layout fits; says what was looked for.
    """
    root = Path(root)
    if is_world(root):
        return WORLD
    _must_be_folder(root)
    found = [name for name, layout in LAYOUTS.items() if layout.is_here(root)]
    fitting = [name for name in found if task is None or part_of(task) in LAYOUTS[name].parts]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{root}: several layouts fit: {', '.join(fitting)}. Choose one with --format (vpd data check: before DIR)"
        )
    what = f"no data set for {task}" if task else "no known data set"
    wanted = formats_for(task) if task else list(LAYOUTS)
    signs = "".join(f"\n  {name}: {LAYOUTS[name].signs}" for name in wanted)
    other = f" It looks like {found[0]}, which is for {' and '.join(LAYOUTS[found[0]].tasks)}." if found else ""
    inside = [sub for sub in subfolders(root)[:_LOOKED_INTO] if any(LAYOUTS[name].is_here(sub) for name in wanted)]
    if inside and not found:
        other = f" A data set lies deeper: use {' or '.join(map(str, inside[:3]))}."
    parent = root.resolve().parent
    if not found and not inside and (above := [name for name in wanted if LAYOUTS[name].is_here(parent)]):
        other = f" The folder above it has the {above[0]} layout: did you mean {parent}?"
    raise UsageError(f"{root}: {what}. Found: {_content(root)}.{other} Looked for:{signs}")


def splits_of(root: str | Path, format: str) -> list[str]:  # noqa: A002
    """Names of the splits that a folder of this layout has.

    Raises:
        UsageError: If the folder is missing or has another layout.
    """
    root = Path(root)
    layout = find_layout(format)
    if layout.is_elsewhere(root):
        return layout.splits(root)
    _must_be_folder(root)
    if not layout.is_here(root):
        raise UsageError(f"{root}: not the {format} layout. Looked for {layout.signs}. Found: {_content(root)}")
    return layout.splits(root)


def held_out_split(root: str | Path, layout: str) -> str | None:
    """The split to measure on where nobody names one: val under any of its names, else test, else none."""
    present = {split.lower(): split for split in reversed(splits_of(root, layout))}
    return next((present[name] for name in (*VALIDATION_NAMES, TEST_NAME) if name in present), None)


def told_split(split: str) -> str:
    """A held-out split in words, which tell where the test split stands in."""
    return f"{split}, since there is no {'/'.join(VALIDATION_NAMES)} split" if split.lower() == TEST_NAME else split


def reader_options(layout: str, recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a layout's reader as the recipe has them, under those that were given."""
    as_published = LAYOUTS[layout].as_published if layout in LAYOUTS and recipe == "reference" else {}
    return {**as_published, **options}


def find_layout(format: str) -> Layout:  # noqa: A002
    """The layout of a name.

    Raises:
        UsageError: If there is none; lists the names.
    """
    if format not in LAYOUTS:
        raise UsageError(f"unknown data format {format!r}; choose one of: {', '.join(LAYOUTS)}")
    return LAYOUTS[format]


def _must_be_folder(root: Path) -> None:
    if is_world(root):
        raise UsageError(f"{root} names the rendered scenes, whose format is {WORLD}; leave --format out.")
    if not root.is_dir():
        near = difflib.get_close_matches(str(root), [WORLD], cutoff=0.75)
        raise UsageError(f"{root}: no such folder." + (f" Did you mean {WORLD}, the rendered scenes?" if near else ""))


def _content(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
