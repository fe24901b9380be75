"""The parts of a sample from pictures and arrays: read, and held against the image and the class list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import GENERIC_SCENE, CountedDepth, Exif, Sample
from vpd.datasets.classes import LabelTable
from vpd.datasets.coco_masks import Overlap, check_inside, decode_mask
from vpd.datasets.depth_arrays import is_array, read_depth_array
from vpd.errors import UsageError
from vpd.files.decoding import Encoded
from vpd.files.images import read_depth, read_labels, read_photo

Picture = Path | Encoded
"""An image file, or one inside another file."""

TASK_OF_PART = {"labels": "segment", "mask": "refer", "depth": "depth"}
"""Part of a sample -> the task that it is the truth of."""


@dataclass(frozen=True)
class PartReader:
    """Reads the parts of samples of one data set.

    Args:
        classes: What label values mean; needed for `labels`.
        depth_scale: Units of depth files in one metre; none = 1000 for whole numbers (millimetres), 1 for
            floating-point numbers (metres).
        max_depth_m: Larger depth counts as not measured, metres; none = all counts.
        overlap: What pixels are where two polygons of one object overlap.

    Raises:
        UsageError: If a number is not above 0, or `overlap` is unknown.
    """

    classes: LabelTable | None = None
    depth_scale: float | None = None
    max_depth_m: float | None = None
    overlap: Overlap = "union"

    def __post_init__(self) -> None:
        for name in ("depth_scale", "max_depth_m"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or not 0 < value < float("inf")):
                raise UsageError(f"{name}={value!r}; it must be a number above 0")
        if self.overlap not in ("union", "background"):
            raise UsageError(f"overlap={self.overlap!r}; choose union or background")

    @property
    def counted(self) -> CountedDepth:
        """Which depth counts in evaluation."""
        return CountedDepth(max_depth_m=self.max_depth_m)

    @property
    def reading(self) -> dict[str, Any]:
        """See `SampleSet.reading`."""
        depth = {"depth_scale": self.depth_scale, "max_depth_m": self.max_depth_m}
        return {name: value for name, value in depth.items() if value} | (self.classes.reading if self.classes else {})

    def sample(
        self,
        name: str,
        *,
        image: Picture,
        labels: Picture | NDArray[Any] | None = None,
        depth: Picture | NDArray[Any] | None = None,
        mask: Picture | dict[str, Any] | list[Any] | None = None,
        texts: tuple[str, ...] = (),
        scene: str | None = None,
        group: str | None = None,
        exif: Exif | None = None,
    ) -> Sample:
        """Read one sample.

        Args:
            name: Unique within its data set.
            image: The picture.
            labels: Label values, `(H, W)`.
            depth: Depth in the data set's units, `(H, W)`.
            mask: Picture that is not 0 inside the object; or polygons or run lengths, as COCO has them.
            texts: Expressions that mean `mask`.
            scene: Scene class, where known.
            group: What resembling samples share.
            exif: What is done about the picture's EXIF orientation; none = it is applied.

        Raises:
            UsageError: If a part cannot be read, is of another size than the image, or has values that mean
                nothing.
        """
        pixels, turn = read_pixels(image, exif)
        size, place = (pixels.shape[0], pixels.shape[1]), told_turn(image, turn, exif)
        return Sample(
            name,
            pixels,
            labels=None if labels is None else self._labels(labels, place, size),
            depth_m=None if depth is None else self._depth_m(depth, place, size),
            mask=None if mask is None else self._mask(mask, place, size),
            texts=texts,
            scene=scene,
            group=group,
            exif_turn=turn,
        )

    def _labels(self, source: Picture | NDArray[Any], image: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        if self.classes is None:
            raise UsageError(f"{image}: labels without class names")
        raw = source if isinstance(source, np.ndarray) else self.classes.read(source)
        place = f"labels of {image}" if isinstance(source, np.ndarray) else str(source)
        check_same_size("label", raw, place, size, image)
        return self.classes.check(raw, place)

    def _depth_m(self, source: Picture | NDArray[Any], image: str, size: tuple[int, int]) -> NDArray[np.float32]:
        if isinstance(source, np.ndarray) or is_array(source):
            depth_m = read_depth_array(source, self.depth_scale)
        else:
            depth_m = read_depth(source, self.depth_scale)
        place = f"depth of {image}" if isinstance(source, np.ndarray) else source
        check_same_size("depth", depth_m, place, size, image)
        if self.max_depth_m is not None:
            depth_m[depth_m > self.max_depth_m] = 0
        return depth_m

    def _mask(
        self, source: Picture | dict[str, Any] | list[Any], image: str, size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        if isinstance(source, (dict, list)):
            name = f"mask of {image}"
            mask = decode_mask(source, height=size[0], width=size[1], overlap=self.overlap, name=name)
            check_inside(source, height=size[0], width=size[1], name=name)
            return mask
        raw = read_labels(source)
        check_same_size("mask", raw, source, size, image)
        return raw > 0


def read_pixels(image: Picture, exif: Exif | None) -> tuple[NDArray[np.uint8], int]:
    """Pixels `(H, W, 3)` of a picture, and its EXIF orientation, which is applied unless `exif` says `ignore`.

    Raises:
        UsageError: If it cannot be read.
    """
    picture, turn = read_photo(image, turn=exif != "ignore")
    return np.array(picture), turn


def told_turn(image: Picture, turn: int, exif: Exif | None) -> str:
    """A picture in messages on its size, with the turn that viewers do not show."""
    if turn == 1 or exif == "ignore":
        return str(image)
    return f"{image}, which is turned by its EXIF orientation {turn}; exif=ignore takes it as it lies in the file"


def scene_names(found: Iterable[str | None]) -> tuple[str, ...]:
    """Names of the scenes that samples have, sorted; the generic one where they have none."""
    return tuple(sorted({scene for scene in found if scene})) or (GENERIC_SCENE,)


def tasks_of(parts: Iterable[str]) -> tuple[Any, ...]:
    """What samples with these parts (`labels`, `mask`, `depth`) can be used for."""
    return tuple(task for part, task in TASK_OF_PART.items() if part in parts)


def part_of(task: str) -> str:
    """The part of a sample that is the truth of a task.

    Raises:
        UsageError: If there is no such task.
    """
    if task in TASK_OF_PART.values():
        return next(part for part, known in TASK_OF_PART.items() if known == task)
    from vpd.tasks.table import find_task  # brings torch; only tasks that were added get here

    return find_task(task).truth.removesuffix("_m")


def check_same_size(what: str, values: NDArray[Any], place: object, size: tuple[int, ...], image: object) -> None:
    """Make sure that a part of a sample is as large as its image.

    Args:
        what: What messages call the part.
        values: The part, `(H, W)`.
        place: Where it comes from, for messages.
        size: Height and width of the image.
        image: Where that comes from, for messages.

    Raises:
        UsageError: If sizes differ.
    """
    if values.shape != size:
        form = "x".join(str(extent) for extent in reversed(values.shape))
        raise UsageError(f"{place}: {what} size {form} differs from the image's {size[1]}x{size[0]} ({image})")
