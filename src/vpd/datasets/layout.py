"""What a layout says of itself: a way in which data sets lie on a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpd.config import Task
from vpd.data.sample import SampleSet
from vpd.datasets.sample_reader import tasks_of


@dataclass(frozen=True)
class Layout:
    """One way in which data sets lie on a disk."""

    parts: tuple[str, ...]
    """Which of `labels`, `mask` and `depth` its samples can have."""
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
    full: Mapping[str, int] = field(default_factory=dict)
    """Samples of each split of the whole benchmark; for referring the expressions, in the usual split."""
    as_published: Mapping[str, Any] = field(default_factory=dict)
    """Options that the recipe `reference` sets."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it can be used for."""
        return tasks_of(self.parts)


def present_folders(root: Path, names: Iterable[str]) -> list[str]:
    """Those of some names that are folders below `root`."""
    return [name for name in names if (root / name).is_dir()]
