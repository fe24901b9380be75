"""Lists of image and depth pairs, as the NYU and KITTI benchmarks publish them, and reading such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vpd.datasets.annotations import inner_path
from vpd.datasets.label_pairs import check_same_size
from vpd.errors import UsageError
from vpd.files.images import read_depth, read_image

NO_DEPTH = "None"
"""Stands in a list's depth column where a picture has no depth."""


class Pair(NamedTuple):
    """One picture and its depth, as a list names them."""

    image: str
    """Path below the folder of the pictures."""
    depth: str
    """Path below the folder of the depth."""
    origin: str = ""
    """List and line that name them; empty where they were found without a list."""


class PairList(NamedTuple):
    """What a list file holds."""

    pairs: list[Pair]
    """In the list's order."""
    without_depth: int
    """Lines that were skipped because they have the word `None` for the depth."""


def read_pair_list(path: Path) -> PairList:
    """Read a list of `image depth [focal]` lines, with or without leading slashes.

    Raises:
        UsageError: If the file cannot be read or a line has another form; it is named.
    """
    pairs, without_depth = [], 0
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: the list cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file; a list has lines of: image depth [focal]") from error
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) not in (2, 3):
            raise UsageError(f"{path}, line {number}: {len(columns)} columns; must be: image depth [focal]")
        if columns[1] == NO_DEPTH:
            without_depth += 1
            continue
        where = f"{path}, line {number}"
        # a leading slash would drop the root
        image, depth = (inner_path(column.strip("/"), where).as_posix() for column in columns[:2])
        pairs.append(Pair(image, depth, where))
    return PairList(pairs, without_depth)


def find_list(root: Path, list_file: str | Path | None, names: Sequence[str]) -> Path | None:
    """The list that was asked for, or the first of the usual ones that lies in `root`, or none.

    Raises:
        UsageError: If the list that was asked for is not there.
    """
    if list_file is not None:
        if not Path(list_file).is_file():
            raise UsageError(f"{list_file}: no such list file")
        return Path(list_file)
    return next((root / name for name in names if (root / name).is_file()), None)


def read_pair(
    image_path: Path, depth_path: Path, *, scale: float, origin: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A picture `(H, W, 3)` and its depth `(H, W)`, metres, 0 = not measured.

    Args:
        image_path: The picture.
        depth_path: Its depth: PNG or TIFF of 16 bits or floating point.
        scale: Units of the depth file in one metre.
        origin: List and line that name them, for messages; may be empty.

    Raises:
        UsageError: If a file is missing or cannot be read, or sizes differ.
    """
    for path in (image_path, depth_path):
        if origin and not path.is_file():
            raise UsageError(f"{path}: no such file; {origin} names it")
    image = np.array(read_image(image_path))
    depth_m = read_depth(depth_path, scale=scale)
    check_same_size("depth", depth_m, depth_path, image.shape[:2], image_path)
    return image, depth_m
