"""What a run may write over: files of earlier runs, listed in a manifest or marked, and none of the user's."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vpd.files.marks import is_marked
from vpd.files.own_files import refuse_files
from vpd.prediction_jobs.output_names import Item

_READERS = 8


def refuse_foreign_outputs(out: Path, items: Iterable[Item], listed: Container[str]) -> None:
    """Make sure that nothing is written over a file that no run made.

    Args:
        out: The output folder; it need not exist.
        items: What is to be written.
        listed: Names of outputs that stand in a manifest of the folder. Those of a run that was killed before it
            listed them are known by their mark.

    Raises:
        UsageError: If there are such files; says which, and how many.
    """
    is_there: dict[str, bool] = {}
    unlisted: list[str] = []
    for item in items:
        if item.name in listed:
            continue
        # strings: a million Path objects would take longer than the disk
        folder = os.path.dirname(f"{out}/{item.name}")  # noqa: PTH120
        if folder not in is_there:
            is_there[folder] = os.path.isdir(folder)  # noqa: PTH112
        if is_there[folder]:
            paths = (f"{out}/{item.data}", f"{out}/{item.picture}")
            unlisted += [path for path in paths if os.path.lexists(path)]
    with ThreadPoolExecutor(_READERS) as readers:
        foreign = [
            path for path, is_ours in zip(unlisted, readers.map(is_marked, unlisted), strict=True) if not is_ours
        ]
    refuse_files(foreign, "`vpd predict`", remedy="Give another --out")
