"""The world where a data set is asked for: `--data world`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from vpd.config import Task
from vpd.datasets.layout import Layout
from vpd.datasets.sample_reader import TASK_OF_PART, part_of
from vpd.errors import UsageError, wrong_fields
from vpd.weights.shipped import WORLD

if TYPE_CHECKING:
    from vpd.world.dataset import WorldSamples

COUNTS = {"train": 20_000, "val": 200, "test": 1000}
"""Scenes of each split, where nobody says otherwise."""
WORLD_SPLITS = tuple(COUNTS)
_SIDE = TypeAdapter(Annotated[int, Field(ge=16, le=4096)])
_COUNT, _SEED, _KEEP = TypeAdapter(PositiveInt), TypeAdapter(NonNegativeInt), TypeAdapter(bool)


def is_world(root: Path) -> bool:
    """Whether data called by this name are the rendered scenes; a folder of the name comes first."""
    return str(root) == WORLD and not root.is_dir()


def open_world(
    root: Path,
    split: str,
    *,
    task: Task | None,
    count: int | None = None,
    size_px: int = 128,
    seed: int = 0,
    keep: bool = False,
) -> WorldSamples:
    """Rendered scenes of a split.

    Args:
        root: The name.
        split: `train`, `val` or `test`; they share no scene.
        task: What the scenes are for.
        count: How many; none = 20,000, 200 and 1,000.
        size_px: Side of the pictures, pixels.
        seed: Another seed, other scenes.
        keep: Keep every scene in memory once it is rendered: about 65 kB each at 128 px.

    Raises:
        UsageError: If there is no such split, or an option does not fit.
    """
    from vpd.world.dataset import WorldSamples  # which needs vpd.data, to whose layouts this belongs

    if split not in WORLD_SPLITS:
        raise UsageError(f"{root} has no split {split!r}; choose one of: {', '.join(WORLD_SPLITS)}")
    if task is None:
        raise UsageError(f"{root}: say which task the scenes are for: segment, refer or depth")
    given = (("count", count, _COUNT), ("size_px", size_px, _SIDE), ("seed", seed, _SEED), ("keep", keep, _KEEP))
    for name, value, adapter in given:
        try:
            if value is not None:
                adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(f"{root}: {name}={value!r}: {wrong_fields(error)[0].message}") from None
    kind: Task = TASK_OF_PART[part_of(task)]
    return WorldSamples(kind, split, count or COUNTS[split], size_px, seed=seed, keep=keep)  # type: ignore[arg-type]


LAYOUT = Layout(
    parts=("labels", "mask", "depth"),
    signs="the name `world` instead of a folder: rendered scenes",
    is_here=lambda root: False,
    splits=lambda root: list(WORLD_SPLITS),
    open=open_world,
    is_elsewhere=is_world,
    takes_task=True,
)
