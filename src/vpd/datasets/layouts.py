"""From a folder that someone has to a sample set: which layout it is, and what is missing if it is none."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vpd.config import Recipe, Task
from vpd.data.sample import SampleSet
from vpd.datasets.ade20k import FOLDERS as ADE20K_FOLDERS
from vpd.datasets.ade20k import Ade20k
from vpd.datasets.cityscapes import SPLITS as CITYSCAPES_SPLITS
from vpd.datasets.cityscapes import Cityscapes
from vpd.datasets.coco_files import annotation_files
from vpd.datasets.coco_instances import CocoInstances
from vpd.datasets.coco_panoptic import CocoPanoptic
from vpd.datasets.depth_folder import DepthFolder, depth_splits, is_depth_folder
from vpd.datasets.folder import FolderData
from vpd.datasets.huggingface import HuggingFaceData
from vpd.datasets.huggingface_tables import is_hub_dataset, is_table_folder, table_splits
from vpd.datasets.kitti import SPLITS as KITTI_SPLITS
from vpd.datasets.kitti import KittiDepth, has_list
from vpd.datasets.nyu import FOLDERS, NyuDepth
from vpd.datasets.pair_folders import folder_splits
from vpd.datasets.records import RecordsData, is_records, record_splits
from vpd.datasets.refer import DATASETS, ReferData, find_splits
from vpd.datasets.shard_index import shard_files
from vpd.datasets.shards import ShardData
from vpd.datasets.world import WORLD_SPLITS, is_world, open_world
from vpd.errors import UsageError
from vpd.weights.shipped import WORLD

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One way in which data sets lie on a disk."""

    tasks: tuple[Task, ...]
    """What it can be used for."""
    signs: str
    """What it is known by, for messages."""
    is_here: Callable[[Path], bool]
    """Whether a folder looks like it."""
    splits: Callable[[Path], list[str]]
    """Names of the splits that a folder has."""
    open: Callable[..., SampleSet]
    """`(root, split, **options)` -> samples; its keyword-only arguments are the layout's options."""
    is_elsewhere: Callable[[Path], bool] = lambda root: False
    """Whether something names data of this layout that is no folder here."""
    takes_task: bool = False
    """Whether `open` needs to know the task."""


def _refer_layout(name: str) -> Layout:
    return Layout(
        tasks=("refer",),
        signs=f"{name}/instances.json",
        is_here=lambda root: (root / name / "instances.json").is_file(),
        splits=lambda root: find_splits(root / name),
        open=partial(ReferData, dataset=name),
    )


LAYOUTS: dict[str, Layout] = {
    "folder": Layout(
        tasks=("segment",),
        signs="images/ and labels/",
        is_here=lambda root: (root / "images").is_dir() and (root / "labels").is_dir(),
        splits=folder_splits,
        open=FolderData,
    ),
    "nyu": Layout(
        tasks=("depth",),
        signs="sync/ or official_splits/",
        is_here=lambda root: (root / "sync").is_dir() or (root / "official_splits").is_dir(),
        splits=lambda root: [split for split, folder in FOLDERS.items() if (root / folder).is_dir()],
        open=NyuDepth,
    ),
    "ade20k": Layout(
        tasks=("segment",),
        signs="annotations/training/ or annotations/validation/",
        is_here=lambda root: bool(_present(root / "annotations", ADE20K_FOLDERS.values())),
        splits=lambda root: [split for split, name in ADE20K_FOLDERS.items() if (root / "images" / name).is_dir()],
        open=Ade20k,
    ),
    "cityscapes": Layout(
        tasks=("segment",),
        signs="leftImg8bit/ and gtFine/",
        is_here=lambda root: (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir(),
        splits=lambda root: _present(root / "leftImg8bit", CITYSCAPES_SPLITS),
        open=Cityscapes,
    ),
    "kitti": Layout(
        tasks=("depth",),
        signs="data_depth_annotated/",
        is_here=lambda root: (root / "data_depth_annotated").is_dir(),
        splits=lambda root: [split for split in KITTI_SPLITS if has_list(root, split)],
        open=KittiDepth,
    ),
    **{name: _refer_layout(name) for name in DATASETS},
    "depth_folder": Layout(
        tasks=("depth",),
        signs="images/ and depth/, or SPLIT.csv with the columns image,depth",
        is_here=is_depth_folder,
        splits=depth_splits,
        open=DepthFolder,
    ),
    "coco_panoptic": Layout(
        tasks=("segment",),
        signs="annotations/panoptic_SPLIT.json",
        is_here=lambda root: bool(annotation_files(root, "panoptic")),
        splits=lambda root: list(annotation_files(root, "panoptic")),
        open=CocoPanoptic,
    ),
    "coco_instances": Layout(
        tasks=("segment",),
        signs="annotations/instances_SPLIT.json",
        is_here=lambda root: bool(annotation_files(root, "instances")),
        splits=lambda root: list(annotation_files(root, "instances")),
        open=CocoInstances,
    ),
    "records": Layout(
        tasks=("segment", "refer", "depth"),
        signs="SPLIT.jsonl with an image in each line",
        is_here=is_records,
        splits=record_splits,
        open=RecordsData,
    ),
    "huggingface": Layout(
        tasks=("segment", "refer", "depth"),
        signs="dataset_dict.json, state.json or *.parquet",
        is_here=is_table_folder,
        splits=table_splits,
        open=HuggingFaceData,
        is_elsewhere=is_hub_dataset,
    ),
    "shards": Layout(
        tasks=("segment", "refer", "depth"),
        signs="SPLIT-000000.tar or SPLIT/000000.tar",
        is_here=lambda root: bool(shard_files(root)),
        splits=lambda root: list(shard_files(root)),
        open=ShardData,
    ),
    "world": Layout(
        tasks=("segment", "refer", "depth"),
        signs="the name `world` instead of a folder: rendered scenes",
        is_here=lambda root: False,
        splits=lambda root: list(WORLD_SPLITS),
        open=open_world,
        is_elsewhere=is_world,
        takes_task=True,
    ),
}
"""Name of each layout, as `--format` takes it; looked for in this order."""


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
        options: Keyword arguments of the layout's class, such as `FolderData`, `NyuDepth` or `ReferData`.

    Raises:
        UsageError: If the folder is missing or has no known layout, the layout is for another task, or an option
            is unknown; and whatever the layout finds wrong.
    """
    if format is None:
        format = detect_format(root, task)  # noqa: A001
        logger.info("%s: %s layout", root, format)
    if task is not None and (format not in LAYOUTS or task not in LAYOUTS[format].tasks):
        raise UsageError(f"{root}: format {format!r} is not for {task}; choose one of: {', '.join(formats_for(task))}")
    layout = find_layout(format)
    check_options(format, options)
    needed = {"task": task} if layout.takes_task else {}
    opened = layout.open(root, split, **needed, **options)
    of_content = getattr(opened, "tasks", layout.tasks)  # readers for several tasks tell it by what they found
    if task is not None and task not in of_content:
        raise UsageError(f"{root}: its {split} split is for {' and '.join(of_content)}, not for {task}")
    return opened


def formats_for(task: Task) -> list[str]:
    """Names of the layouts for a task."""
    return [name for name, layout in LAYOUTS.items() if task in layout.tasks]


def option_names(layout: Layout) -> list[str]:
    """Options of a layout's reader that a user can set."""
    decided = set(layout.open.keywords) if isinstance(layout.open, partial) else set()
    decided |= {"task"} if layout.takes_task else set()
    arguments = inspect.signature(layout.open).parameters.items()
    return [name for name, given in arguments if given.kind is given.KEYWORD_ONLY and name not in decided]


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
        return "world"
    _must_be_folder(root)
    found = [name for name, layout in LAYOUTS.items() if layout.is_here(root)]
    fitting = [name for name in found if task is None or task in LAYOUTS[name].tasks]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{root}: several layouts fit: {', '.join(fitting)}. Choose one with --format")
    what = f"no data set for {task}" if task else "no known data set"
    wanted = formats_for(task) if task else list(LAYOUTS)
    signs = "; ".join(f"{name}: {LAYOUTS[name].signs}" for name in wanted)
    other = f" It looks like {found[0]}, which is for {' and '.join(LAYOUTS[found[0]].tasks)}." if found else ""
    raise UsageError(f"{root}: {what}. Looked for {signs}. Found: {_content(root)}.{other}")


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
    """The split to measure on where nobody names one: val, else test, else none."""
    present = splits_of(root, layout)
    return next((split for split in ("val", "test") if split in present), None)


def reader_options(layout: str, recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a layout's reader as the recipe has them, under those that were given."""
    if layout in DATASETS and recipe == "reference":
        return {"overlap": "background"} | options  # where two polygons of an object overlap, as published
    return options


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


def _present(root: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if (root / name).is_dir()]


def _content(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
