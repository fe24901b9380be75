"""From a folder that someone has to a sample set: which layout it is, and what is missing if it is none."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

from vpd.config import Task
from vpd.data.folder import FolderData, folder_splits
from vpd.data.nyu import FOLDERS, NyuDepth
from vpd.data.refer import DATASETS, ReferData, find_splits
from vpd.data.samples import SampleSet
from vpd.errors import UsageError

logger = logging.getLogger(__name__)

FORMATS: dict[str, Task] = {"folder": "segment", "nyu": "depth", **dict.fromkeys(DATASETS, "refer")}
"""Name of each layout -> the task it is for."""

_SIGNS = {
    "folder": "images/ and labels/",
    "nyu": "sync/ or official_splits/",
    **{name: f"{name}/instances.json" for name in DATASETS},
}


def open_data(
    root: str | Path,
    task: Task,
    *,
    format: str | None = None,  # noqa: A002
    split: str = "train",
    **options: Any,
) -> SampleSet:
    """Open a data set.

    Args:
        root: Its folder.
        task: What it is to be used for.
        format: Layout, one of `FORMATS`; none = detect it, and log which it is.
        split: Part of the data set.
        options: Keyword arguments of the layout's class: `FolderData`, `NyuDepth` or `ReferData`.

    Raises:
        UsageError: If the folder is missing or has no known layout, the layout is for another task, or an option
            is unknown; and whatever the layout finds wrong.
    """
    if format is None:
        format = detect_format(root, task)  # noqa: A001
        logger.info("%s: %s layout", root, format)
    if FORMATS.get(format) != task:
        fitting = ", ".join(name for name, other in FORMATS.items() if other == task)
        raise UsageError(f"{root}: format {format!r} is not for {task}; choose one of: {fitting}")
    kind = {"folder": FolderData, "nyu": NyuDepth}.get(format, ReferData)
    known = [name for name, given in inspect.signature(kind).parameters.items() if given.kind is given.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"unknown option of the {format} layout: {', '.join(unknown)}. Known: {', '.join(known)}")
    if format in DATASETS:
        options = {"dataset": format, **options}
    return kind(root, split, **options)


def detect_format(root: str | Path, task: Task | None = None) -> str:
    """Name of the layout of a folder, among those for `task`.

    Raises:
        UsageError: If there is no such folder, or not exactly one layout fits; says what was looked for.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    found = [name for name in FORMATS if _has_signs(root, name)]
    fitting = [name for name in found if task in (None, FORMATS[name])]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{root}: several layouts fit: {', '.join(fitting)}. Choose one with --format")
    what = f"no data set for {task}" if task else "no known data set"
    signs = "; ".join(f"{name}: {sign}" for name, sign in _SIGNS.items() if task in (None, FORMATS[name]))
    other = f" It looks like {found[0]}, which is for {FORMATS[found[0]]}." if found else ""
    raise UsageError(f"{root}: {what}. Looked for {signs}. Found: {_content(root)}.{other}")


def splits_of(root: str | Path, format: str) -> list[str]:  # noqa: A002
    """Names of the splits that a folder of this layout has.

    Raises:
        UsageError: If the folder is missing or has another layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if not _has_signs(root, format):
        raise UsageError(f"{root}: not the {format} layout. Looked for {_SIGNS[format]}. Found: {_content(root)}")
    if format == "folder":
        return folder_splits(root)
    if format == "nyu":
        return [split for split, folder in FOLDERS.items() if (root / folder).is_dir()]
    return find_splits(root / format, DATASETS[format])


def _content(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def _has_signs(root: Path, name: str) -> bool:
    if name == "folder":
        return (root / "images").is_dir() and (root / "labels").is_dir()
    if name == "nyu":
        return (root / "sync").is_dir() or (root / "official_splits").is_dir()
    return (root / name / "instances.json").is_file()
