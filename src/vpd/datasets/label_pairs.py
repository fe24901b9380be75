"""What data sets of images and their labels or depth have in common: partners that are missing, sizes that differ."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from vpd.errors import UsageError

Unpaired = Literal["error", "skip"]
"""What to do about a file without its partner."""


def refuse_unpaired(root: Path, split: str, unpaired: Sequence[str], pairs: Sized, policy: Unpaired) -> None:
    """Make sure that a split has whole samples, and under the policy `error` nothing else.

    Args:
        root: Folder of the data set.
        split: Its name.
        unpaired: A line for each sample that lacks a file.
        pairs: The whole samples.
        policy: What to do about the others: refuse the data set, or leave them out.

    Raises:
        UsageError: If the policy is unknown, a sample lacks a file, or none is whole.
    """
    if policy not in ("error", "skip"):
        raise UsageError(f"unpaired={policy!r}; choose error or skip")
    if unpaired and policy == "error":
        raise UsageError(
            f"{root}: {len(unpaired)} {split} samples lack a file. First: {'; '.join(unpaired[:3])}. "
            "Add the files, or set unpaired=skip to leave them out (vpd train: -s data.options.unpaired=skip)"
        )
    if not len(pairs):
        raise UsageError(f"{root}: the {split} split has no sample with all its files")


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
