"""Predictions for many files: written as they come, listed in a manifest, gone on with after a stop, shared out."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.atomic import append_json_line
from vpd.model_folder import check_results_folder
from vpd.prediction_jobs.manifest import (
    MANIFEST,
    SHARDS,
    Entry,
    find_moved,
    merge_manifests,
    moved_lines,
    read_manifests,
)
from vpd.prediction_jobs.output_names import Item, name_outputs
from vpd.prediction_jobs.own_outputs import refuse_foreign_outputs
from vpd.prediction_jobs.worker import Chunk, Outcome

Engine = Callable[[Iterable[Chunk]], Iterable[Outcome]]
"""What predicts chunks: `Predictor.run`, or `predict_by_ray`. The order of its outcomes does not matter."""
_SLURM = ("ID", "MIN", "MAX", "COUNT")
_READERS, _MANY = 8, 1000

logger = logging.getLogger(__name__)


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
    made again: it goes on with what is missing, and with images that are not what they were: those of another size,
    and of other content where their times differ. Images whose folder was moved are known by their path below it and
    their content. Several jobs may share the work and the folder, each with its share.

    Args:
        sources: Image files, folders, glob patterns.
        out: Folder to write into.
        origin: How predictions are made, as `Predictor.origin` has it.
        batch_size: Images that are read and predicted together.
        share: This job's share; none = all.

    Raises:
        UsageError: If the sources or the folder cannot be used, the folder holds predictions made by another model
            or with other options, or something would be written over a file that no such job made.
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
        record = read_manifests(self.out, origin)
        done = record.done
        names = {source: entry.name for source, entry in done.items()}
        self.items, self.left_out = name_outputs(sources, self.out, taken=names, recognise=partial(find_moved, done))
        """All images, those of other shares too; and what lay beside them, kind -> how many."""
        own = [place for place in range(len(self.items)) if share is None or share.has(place // batch_size)]
        self.total = len(own)
        """How many of them are this job's."""
        self._moved: list[tuple[Item, Entry]] = []
        self._pending = self._find_pending(own, done)
        self.pending = [self.items[place] for place in self._pending]
        """Those of these that were not finished when the job was made."""
        refuse_foreign_outputs(self.out, self.pending, record.listed)
        check_results_folder(self.out)  # it is made with the first line
        self._manifest = self.out / MANIFEST if share is None else self.out / SHARDS / share.manifest

    def run(self, engine: Engine) -> Iterator[Outcome]:
        """Predict what is missing; yields each image when it is listed or skipped.

        Args:
            engine: Who predicts; it may give an image several times, as workers do that are killed and start again.
        """
        if self._moved:
            self._list(*moved_lines(self.out, self._moved))
        listed: set[str] = set()
        for outcome in engine(self._chunks()):
            if outcome.source in listed:
                continue
            listed.add(outcome.source)
            if outcome.line is not None:
                self._list(outcome.line)
            elif self._share is not None:  # the others must learn that nothing is to come
                self._list({"source": outcome.source, "skipped": outcome.error})
            yield outcome

    def finish(self) -> bool:
        """Put the manifest into the order of the sources; of several shares, the last to finish does so for all.

        Returns:
            Whether every image is finished or was skipped, those of other shares too.
        """
        sources = [item.source for item in self.items]
        return merge_manifests(self.out, self._origin, sources, only_if_complete=self._share is not None)

    def _list(self, *lines: Mapping[str, Any]) -> None:
        self._manifest.parent.mkdir(parents=True, exist_ok=True)
        append_json_line(self._manifest, *lines)

    def _chunks(self) -> Iterator[Chunk]:
        """Chunks that something is missing of, cut from the whole list."""
        size = self._batch_size
        for number, places in groupby(self._pending, lambda place: place // size):
            items = tuple(self.items[number * size : (number + 1) * size])
            yield Chunk(items, frozenset(self.items[place].source for place in places))

    def _find_pending(self, own: Sequence[int], done: Mapping[str, Entry]) -> list[int]:
        """Places of the images to predict; notes those that were finished elsewhere, and renames what only looks so."""
        entries = {place: entry for place in own if (entry := done.get(_known_as(self.items[place])))}
        same = {place: _glance(self.items[place], entry) for place, entry in entries.items()}
        unsure = [place for place in own if same.get(place, False) is None]
        if len(unsure) >= _MANY:
            logger.info("Comparing %d images, whose times are others than when they were predicted.", len(unsure))
        with ThreadPoolExecutor(_READERS) as readers:
            compared = readers.map(lambda place: _fits(self.items[place], entries[place]), unsure)
            same.update(zip(unsure, compared, strict=True))
        pending = []
        for place in own:
            item, is_same = self.items[place], same.get(place, False)
            if item.moved_from and not is_same:
                self.items[place] = item.with_own_name()
            if not (is_same and self._has_outputs(item)):
                pending.append(place)
            elif item.moved_from:
                self._moved.append((item, entries[place]))
        return pending

    def _has_outputs(self, item: Item) -> bool:
        # strings: a million Path objects would take longer than the disk
        return all(os.path.isfile(f"{self.out}/{name}") for name in (item.data, item.picture))  # noqa: PTH113


def _known_as(item: Item) -> str:
    """What a manifest calls the source of an image."""
    return item.moved_from or item.source


def _glance(item: Item, entry: Entry) -> bool | None:
    """Whether an image is what it was; none = it must be read to know. What is finished and gone stays finished."""
    try:
        return entry.state.at_a_glance(item.source)
    except OSError:
        return True


def _fits(item: Item, entry: Entry) -> bool:
    try:
        return entry.state.fits(item.source)
    except OSError:
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
