"""Depth in the benchmarks' own order: lists of image and depth pairs, as NYU and KITTI have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vpd.data.sample import Exif, Sample, SampleSet
from vpd.datasets.annotations import inner_path
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError

NO_DEPTH = "None"
"""Stands in a list's depth column where a picture has no depth."""


class ListedPair(NamedTuple):
    """One picture and its depth, as a list names them."""

    image: str
    """Path below the folder of the pictures."""
    depth: str
    """Path below the folder of the depth."""
    origin: str = ""
    """List and line that name them; empty where they were found without a list."""


class ListedDepth(SampleSet):
    """Samples with `depth_m` of pairs in the order of a list."""

    pairs: Sequence[ListedPair] = ()
    """What each sample is made of."""

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_keys(self) -> Iterable[str]:
        """Names of the pictures in their order."""
        return (pair.image for pair in self.pairs)

    def _take_list(self, root: Path, list_file: str | Path | None, names: Sequence[str]) -> Path | None:
        """Take the pairs of the list that was asked for or is usual, say so in `notes`, and return it if there is one.

        Raises:
            UsageError: If the list cannot be read or a line is malformed.
        """
        listed = find_list(root, list_file, names)
        if listed:
            self.pairs, without_depth = read_pair_list(listed)
            self.notes = [f"list: {listed}" + (f"; lines without depth: {without_depth}" if without_depth else "")]
        return listed


def read_pair_list(path: Path) -> tuple[list[ListedPair], int]:
    """Pairs of a list of `image depth [focal]` lines, with or without leading slashes, and how many have no depth.

    Raises:
        UsageError: If the file cannot be read or a line has another form; it is named.
    """
    pairs, without_depth = list[ListedPair](), 0
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
        image, depth = (inner_path(column.replace("\\", "/").strip("/"), where).as_posix() for column in columns[:2])
        pairs.append(ListedPair(image, depth, where))
    return pairs, without_depth


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


def read_listed(
    reader: PartReader,
    name: str,
    *,
    image: Path,
    depth: Path,
    origin: str,
    scene: str | None = None,
    group: str | None = None,
    exif: Exif | None = None,
) -> Sample:
    """The sample of a picture and its depth, as `PartReader.sample` makes it.

    Args:
        reader: Knows the units.
        name: Of the sample.
        image: The picture.
        depth: Its depth.
        origin: List and line that name them, which are told where one is missing; may be empty.
        scene: Scene class, where known.
        group: What resembling samples share.
        exif: What is done about EXIF orientations.

    Raises:
        UsageError: If a file is missing or cannot be read, or sizes differ.
    """
    for path in (image, depth):
        if origin and not path.is_file():
            raise UsageError(f"{path}: no such file; {origin} names it")
    return reader.sample(name, image=image, depth=depth, scene=scene, group=group, exif=exif)
