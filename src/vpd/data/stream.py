"""An endless stream of training batches that can begin at any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vpd.data.collation import collate
from vpd.data.samples import Sample, SampleSet, Transform
from vpd.data.transforms import Pipeline
from vpd.errors import UsageError
from vpd.types import Batch

_ORDER, _TRANSFORM = 0, 1
"""First number of each generator's seed: keeps order and transforms apart."""


class SampleStream:
    """Batches for step `start_step`, `start_step + 1`, ... without end.

    The samples of all epochs form one line, each epoch in its own order; step `s` takes the next
    `batch_size * world_size` of them and each rank its share. So a batch may reach into the next epoch, none is
    dropped, and which samples and random numbers make up step `s` depends on the seed and the size of the whole
    step only: neither on the step that a run began with, nor on `workers`, nor on how many ranks share the step.

    Args:
        sample_set: What to draw from.
        transform: Augmentation; a `Pipeline` also says what to pad to.
        seed: Decides order and augmentation.
        batch_size: Samples of one rank in one step.
        shuffle: False keeps the order of the sample set in every epoch.
        rank: This process, from 0.
        world_size: Number of processes.
        start_step: First step.
        workers: Processes that read samples; 0 = read in this one.

    Raises:
        ValueError: If a number is out of range.
        UsageError: If the sample set is empty; while iterating, if a sample cannot be read.
    """

    def __init__(
        self,
        sample_set: SampleSet,
        transform: Transform,
        *,
        seed: int,
        batch_size: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        workers: int = 0,
    ) -> None:
        if len(sample_set) == 0:
            raise UsageError("the sample set is empty; there is nothing to train on")
        if batch_size < 1 or not 0 <= rank < world_size or min(seed, start_step, workers) < 0:
            raise ValueError(
                f"batch_size={batch_size} must be 1 or more, rank={rank} must be below world_size={world_size}, and "
                f"seed={seed}, start_step={start_step}, workers={workers} must not be negative"
            )
        self._order = _Order(len(sample_set), seed if shuffle else None)
        self._samples = _TransformedSamples(sample_set, transform, seed)
        self._pad_px = transform.pad_px if isinstance(transform, Pipeline) else None
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._start_step, self._workers = start_step, workers
        self.steps_per_epoch = len(sample_set) / (batch_size * world_size)
        """Steps in which every sample is used once; rarely a whole number."""

    def places(self, step: int) -> list[tuple[int, int]]:
        """Epoch and index of each sample of this rank's batch in `step`."""
        first = (step * self._world_size + self._rank) * self._batch_size
        return [self._order.place(first + offset) for offset in range(self._batch_size)]

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from `start_step` on."""
        loader = DataLoader(
            self._samples,
            batch_sampler=(self.places(step) for step in count(self._start_step)),
            num_workers=self._workers,
            collate_fn=self._collate,
            generator=torch.Generator(),  # or torch's global generator would be advanced, and a resumed run differ
        )
        for batch in loader:
            if isinstance(batch, UsageError):
                raise batch
            yield batch

    def _collate(self, samples: Sequence[Sample | UsageError]) -> Batch | UsageError:
        """A batch, or the first error; raised in a worker it would lose its one-line message."""
        errors = [sample for sample in samples if isinstance(sample, UsageError)]
        if errors:
            return errors[0]
        try:
            return collate([sample for sample in samples if isinstance(sample, Sample)], pad_px=self._pad_px)
        except UsageError as error:
            return error


class _Order:
    """Every epoch's order of the samples, one after the other."""

    def __init__(self, length: int, seed: int | None) -> None:
        self._length, self._seed = length, seed
        self._epoch, self._permutation = -1, np.arange(length)

    def place(self, position: int) -> tuple[int, int]:
        """Epoch and index of the sample at a place in the endless line."""
        epoch, offset = divmod(position, self._length)
        if self._seed is not None and epoch != self._epoch:
            self._permutation = np.random.default_rng((_ORDER, self._seed, epoch)).permutation(self._length)
            self._epoch = epoch
        return epoch, int(self._permutation[offset])


class _TransformedSamples(Dataset):
    """Reads and augments the sample at `(epoch, index)`; an unreadable one becomes its error."""

    def __init__(self, sample_set: SampleSet, transform: Transform, seed: int) -> None:
        self._sample_set, self._transform, self._seed = sample_set, transform, seed

    def __getitem__(self, place: tuple[int, int]) -> Sample | UsageError:
        epoch, index = place
        rng = np.random.default_rng((_TRANSFORM, self._seed, epoch, index))
        try:
            return self._transform(self._sample_set[index], rng)
        except UsageError as error:
            return error
