"""The tasks that the command line knows: one line each. Python functions take any subclass of `PerceptionModel`."""

from __future__ import annotations

from typing import Any

from vpd.errors import UsageError
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

TaskKind = type[PerceptionModel[Any]]
"""A task: the class of its models."""

_TABLE: tuple[TaskKind, ...] = (
    SegmentationModel,
    ReferringModel,
    DepthModel,
)
TASKS: dict[str, TaskKind] = {kind.task: kind for kind in _TABLE}
"""Word of the command line -> task."""


def find_task(task: str | TaskKind) -> TaskKind:
    """The task of a word; a task that is given as such is taken as it is.

    Raises:
        UsageError: If there is none of that name.
    """
    if not isinstance(task, str):
        return task
    if task not in TASKS:
        raise UsageError(f"There is no task {task!r}. Choose one of: {', '.join(TASKS)}.")
    return TASKS[task]
