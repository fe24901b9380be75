"""What a run may write over: files of earlier runs, listed in a manifest or marked, and none of the user's."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from pathlib import Path

from vpd.files.marks import is_marked
from vpd.files.own_files import refuse_files
from vpd.prediction_jobs.output_names import Item


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
    foreign = []
    for item in items:
        if item.name in listed:
            continue
        # strings: a million Path objects would take longer than the disk
        folder = os.path.dirname(f"{out}/{item.name}")  # noqa: PTH120
        if folder not in is_there:
            is_there[folder] = os.path.isdir(folder)  # noqa: PTH112
        if is_there[folder]:
            paths = (f"{out}/{item.data}", f"{out}/{item.picture}")
            foreign += [path for path in paths if os.path.lexists(path) and not is_marked(path)]
    refuse_files(foreign, "`vpd predict`", remedy="Give another --out")
