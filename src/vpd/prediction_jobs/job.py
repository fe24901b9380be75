"""Predictions for many files: written as they come, listed in a manifest, gone on with after a stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vpd.files.atomic import append_json_line, writable_folder
from vpd.model_folder import results_folder
from vpd.prediction_jobs.manifest import MANIFEST, SHARDS, Entry, merge_manifests, read_manifests
from vpd.prediction_jobs.output_names import Item, name_outputs
from vpd.prediction_jobs.share import Share
from vpd.prediction_jobs.worker import Chunk, Outcome

Engine = Callable[[Iterable[Chunk]], Iterable[Outcome]]
"""What predicts chunks: `Predictor.run`, or `RayPredictor.run`. The order of its outcomes does not matter."""


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
        self._own = [place for place in range(len(self.items)) if share is None or share.has(place // batch_size)]
        self._pending = [place for place in self._own if not self._is_done(self.items[place], done)]
        folder = results_folder(self.out)
        if share is not None:
            folder = writable_folder(self.out / SHARDS)
        self._manifest = folder / (MANIFEST if share is None else share.manifest)

    @property
    def own_items(self) -> list[Item]:
        """The images that are this job's."""
        return [self.items[place] for place in self._own]

    @property
    def pending(self) -> list[Item]:
        """Those of them that were not finished when the job was made."""
        return [self.items[place] for place in self._pending]

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
