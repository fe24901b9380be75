"""Predictions for many files: written as they come, listed in a manifest, gone on with after a stop, shared out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.atomic import append_json_line, writable_folder
from vpd.model_folder import results_folder
from vpd.prediction_jobs.manifest import MANIFEST, SHARDS, Entry, merge_manifests, read_manifests
from vpd.prediction_jobs.output_names import Item, name_outputs
from vpd.prediction_jobs.worker import Chunk, Outcome

Engine = Callable[[Iterable[Chunk]], Iterable[Outcome]]
"""What predicts chunks: `Predictor.run`, or `predict_by_ray`. The order of its outcomes does not matter."""
_SLURM = ("ID", "MIN", "MAX", "COUNT")


@dataclass(frozen=True)
class Share:
    """Share `number` of `count` shares."""

    number: int
    """From 1 to `count`."""
    count: int
    """How many shares there are."""

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def manifest(self) -> str:
        """Name of the share's own manifest."""
        return f"{self.number}-of-{self.count}.jsonl"

    def has(self, place: int) -> bool:
        """Whether the chunk at this place of the whole list belongs to the share; shares differ by one at most."""
        return place % self.count == self.number - 1


class PredictionJob:
    """Predicts the images that `sources` name into `out`: a data file, a picture and a manifest line for each.

    Every file is written whole or not at all and the line comes last, so a job can be stopped at any moment and
    made again: it goes on with what is missing. Several jobs may share the work and the folder, each with its share.

    Args:
        sources: Image files, folders, glob patterns.
        out: Folder to write into.
        origin: How predictions are made, as `Predictor.origin` has it.
        batch_size: Images that are read and predicted together.
        share: This job's share; none = all.

    Raises:
        UsageError: If the sources or the folder cannot be used, or the folder holds predictions made by another
            model or with other options.
    """

    def __init__(
        self,
        sources: Sequence[str],
        out: str | Path,
        origin: Mapping[str, Any],
        *,
        batch_size: int = 1,
        share: Share | None = None,
    ) -> None:
        self.out = Path(out)
        self._origin, self._batch_size, self._share = origin, batch_size, share
        done = read_manifests(self.out, origin).done
        self.items = name_outputs(sources, self.out, taken={source: entry.name for source, entry in done.items()})
        """All images, those of other shares too."""
        own = [place for place in range(len(self.items)) if share is None or share.has(place // batch_size)]
        self.total = len(own)
        """How many of them are this job's."""
        self._pending = [place for place in own if not self._is_done(self.items[place], done)]
        self.pending = [self.items[place] for place in self._pending]
        """Those of these that were not finished when the job was made."""
        folder = results_folder(self.out)
        if share is not None:
            folder = writable_folder(self.out / SHARDS)
        self._manifest = folder / (MANIFEST if share is None else share.manifest)

    def run(self, engine: Engine) -> Iterator[Outcome]:
        """Predict what is missing; yields each image when it is listed or skipped.

        Args:
            engine: Who predicts; it may give an image several times, as workers do that are killed and start again.
        """
        listed: set[str] = set()
        for outcome in engine(self._chunks()):
            if outcome.source in listed:
                continue
            listed.add(outcome.source)
            if outcome.line is not None:
                append_json_line(self._manifest, outcome.line)
            elif self._share is not None:  # the others must learn that nothing is to come
                append_json_line(self._manifest, {"source": outcome.source, "skipped": outcome.error})
            yield outcome

    def finish(self) -> bool:
        """Put the manifest into the order of the sources; of several shares, the last to finish does so for all.

        Returns:
            Whether every image is finished or was skipped, those of other shares too.
        """
        sources = [item.source for item in self.items]
        return merge_manifests(self.out, self._origin, sources, only_if_complete=self._share is not None)

    def _chunks(self) -> Iterator[Chunk]:
        """Chunks that something is missing of, cut from the whole list."""
        size = self._batch_size
        for number, places in groupby(self._pending, lambda place: place // size):
            items = tuple(self.items[number * size : (number + 1) * size])
            yield Chunk(items, frozenset(self.items[place].source for place in places))

    def _is_done(self, item: Item, done: Mapping[str, Entry]) -> bool:
        entry = done.get(item.source)  # strings below: a million Path objects would take longer than the disk
        if entry is None or not all(os.path.isfile(f"{self.out}/{name}") for name in (item.data, item.picture)):  # noqa: PTH113
            return False
        try:
            return os.stat(item.source).st_size == entry.source_bytes  # noqa: PTH116
        except OSError:  # finished and gone
            return True


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """The share that a user's word means.

    Args:
        text: `3/16`, counted from 1; or `slurm`, for the share of this member of a SLURM job array.
        environment: Where SLURM says which member this is.

    Raises:
        UsageError: If it is neither, or there is no job array without gaps.
    """
    if text == "slurm":
        return _share_of_array(environment)
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(
            f"--shard {text}: give the number of this job and how many there are, counted from 1, "
            "such as 1/8 to 8/8; or slurm, in a job array."
        )
    return Share(number, count)


def _share_of_array(environment: Mapping[str, str]) -> Share:
    """The share of a member of a SLURM job array; its first member has the first share."""
    found = {word: environment.get(f"SLURM_ARRAY_TASK_{word}", "") for word in _SLURM}
    if not all(value.isdecimal() for value in found.values()):
        raise UsageError(
            "--shard slurm works in a SLURM job array (sbatch --array=1-16 ...), which sets "
            f"{', '.join(f'SLURM_ARRAY_TASK_{word}' for word in _SLURM)}. Elsewhere give --shard 3/16."
        )
    member, first, last, count = (int(found[word]) for word in _SLURM)
    if last - first + 1 != count or not first <= member <= last:
        raise UsageError(
            f"--shard slurm needs an array that counts without gaps; this one has {count} members from {first} to "
            f"{last}. Submit --array=1-{count}: what is finished is not done again; or give --shard 3/16."
        )
    return Share(member - first + 1, count)
