"""Data sets of images with one file each that belongs to them by its name: a label picture, or depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.annotations import naming
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError
from vpd.files.walk import is_foreign

Unpaired = Literal["error", "skip"]
"""What to do about a file without its partner."""


class Pair(NamedTuple):
    """An image and the file that belongs to it."""

    name: str
    """Of the sample."""
    image: Path
    """Image file."""
    partner: Path
    """Label or depth file."""
    group: str | None = None
    """What pairs that resemble each other share."""
    scene: str | None = None
    """Scene class, where known."""
    origin: str = ""
    """Table and line that name the files; empty where they were found by their names."""


class PairSamples(SampleSet):
    """Samples of pairs, which a data set finds: with `labels` where its reader has a table of them, else `depth_m`."""

    pairs: Sequence[Pair] = ()
    """What each sample is made of."""
    _reader: PartReader

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (pair.name for pair in self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file is missing or cannot be read, sizes differ, or a value means nothing.
        """
        pair = self.pairs[index]
        labels, depth = (pair.partner, None) if self._reader.classes else (None, pair.partner)
        with naming(pair.origin):
            return self._reader.sample(
                pair.name,
                image=pair.image,
                labels=labels,
                depth=depth,
                scene=pair.scene,
                group=pair.group,
                exif=self.exif,
            )

    def files(self) -> Iterable[Path]:
        """Images and their partners."""
        return (path for pair in self.pairs for path in (pair.image, pair.partner))

    def reading(self) -> dict[str, Any]:
        """As the reader of the files has it."""
        return self._reader.reading


def named_files(folder: Path, pattern: str, end: str) -> dict[str, Path]:
    """Name without its end -> file, of the files of a folder that fit a pattern before that end; foreign ones not."""
    found = (path for path in folder.glob(pattern + end) if not any(map(is_foreign, path.relative_to(folder).parts)))
    return {path.name.removesuffix(end): path for path in found}


def match_pairs(
    images: Mapping[str, Path],
    partners: Mapping[str, Path],
    *,
    no_partner: Callable[[str], str],
    no_image: Callable[[str], str],
    group: Callable[[str], str | None] = lambda name: None,
) -> tuple[list[Pair], list[str]]:
    """Pairs of files of one name, sorted, and a line for each file that has no other.

    Args:
        images: Files by their names.
        partners: Likewise.
        no_partner: What an image of a name lacks.
        no_image: What a partner of a name lacks.
        group: What pairs that resemble each other share, by their names.
    """
    pairs = [Pair(name, images[name], partners[name], group(name)) for name in sorted(images.keys() & partners.keys())]
    return pairs, [
        *(f"{images[name]}: {no_partner(name)}" for name in sorted(images.keys() - partners.keys())),
        *(f"{partners[name]}: {no_image(name)}" for name in sorted(partners.keys() - images.keys())),
    ]


def refuse_unpaired(
    root: Path, split: str, unpaired: Sequence[str], pairs: Sized, policy: Unpaired, remedy: str = ""
) -> list[str]:
    """Make sure that a split has whole samples, and under the policy `error` nothing else; a note on what is left out.

    Args:
        root: Folder of the data set.
        split: Its name.
        unpaired: A line for each sample that lacks a file.
        pairs: The whole samples.
        policy: What to do about the others: refuse the data set, or leave them out.
        remedy: What is known about what lies there instead; a sentence.

    Raises:
        UsageError: If the policy is unknown, a sample lacks a file, or none is whole.
    """
    if policy not in ("error", "skip"):
        raise UsageError(f"unpaired={policy!r}; choose error or skip")
    first = f" First: {'; '.join(unpaired[:3])}." if unpaired else ""
    if not len(pairs):
        raise UsageError(f"{root}: the {split} split has no sample with all its files.{first} {remedy}".strip())
    if unpaired and policy == "error":
        raise UsageError(
            f"{root}: {len(unpaired)} {split} samples lack a file.{first} {remedy + ' ' if remedy else ''}"
            "Add the files, or set unpaired=skip to leave them out (vpd train: -s data.options.unpaired=skip)"
        )
    return [f"samples that lack a file, and are left out: {len(unpaired)}"] if unpaired else []
