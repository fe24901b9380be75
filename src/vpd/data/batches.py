"""Samples to batches, and an endless stream of training batches that can begin at any step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vpd.data.matching import check_labels
from vpd.data.sample import Sample, SampleSet, Transform, tell_left_out
from vpd.data.transforms import Pipeline
from vpd.data.workers import Readers
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL, Batch

_ORDER, _TRANSFORM, _REPLACEMENT = 0, 1, 2
"""First number of each generator's seed: keeps order, transforms and replacements apart."""
_TRIES = 8
_SHOWN = 3


class SampleStream:
    """Batches for step `start_step`, `start_step + 1`, ... without end.

    The samples of all epochs form one line, each epoch in its own order; step `s` takes the next
    `batch_size * world_size` of them and each rank its share. So a batch may reach into the next epoch, none is
    dropped, and which samples and random numbers make up step `s` depends on the seed and the size of the whole
    step only: neither on the step that a run began with, nor on `workers`, nor on how many ranks share the step.

    A sample that cannot be read (its data set, or the transform, raises `UsageError`), or has a label outside the set's
    classes, is replaced by another one, drawn
    from seed, epoch and its number; `Batch.unreadable` tells which.

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
        pin: Let a thread put the batches of `workers` into memory that a GPU copies from by itself.

    Raises:
        ValueError: If a number is out of range.
        UsageError: If the sample set is empty; while iterating, if neither a sample nor those that were drawn in its
            place can be read, or samples do not go together in a batch.
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
        pin: bool = False,
    ) -> None:
        if len(sample_set) == 0:
            raise UsageError("the sample set is empty; there is nothing to train on")
        if batch_size < 1 or not 0 <= rank < world_size or min(seed, start_step, workers) < 0:
            raise ValueError(
                f"batch_size={batch_size} must be 1 or more, rank={rank} must be below world_size={world_size}, and "
                f"seed={seed}, start_step={start_step}, workers={workers} must not be negative"
            )
        self._order = _Order(len(sample_set), seed if shuffle else None)
        pad_px = transform.pad_px if isinstance(transform, Pipeline) else None
        self._read = _ReadBatch(_TransformedSamples(sample_set, transform, seed), pad_px)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._start_step, self._workers, self._pin = start_step, workers, pin
        self.steps_per_epoch = len(sample_set) / (batch_size * world_size)
        """Steps in which every sample is used once; rarely a whole number."""

    def places(self, step: int) -> list[tuple[int, int]]:
        """Epoch and index of each sample of this rank's batch in `step`."""
        first = (step * self._world_size + self._rank) * self._batch_size
        return [self._order.place(first + offset) for offset in range(self._batch_size)]

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield batches from `start_step` on; to be closed, as the processes that read samples end only then."""
        places = (self.places(step) for step in count(self._start_step))
        with closing(iter(Readers(self._read, places, workers=self._workers, pin=self._pin))) as batches:
            for batch in batches:
                if isinstance(batch, UsageError):
                    raise batch
                yield batch


@dataclass(frozen=True)
class _ReadBatch:
    """Reads the batch at places; an error is returned, as it would lose its one-line message on its way."""

    samples: _TransformedSamples
    pad_px: int | None

    def __call__(self, places: Sequence[tuple[int, int]]) -> Batch | UsageError:
        drawn = [self.samples.draw(place) for place in places]
        unreadable = [problem for one in drawn for problem in one.unreadable]
        samples = [one.sample for one in drawn if one.sample is not None]
        if len(samples) < len(drawn):
            listed = "; ".join(list(dict.fromkeys(problem for _, problem in unreadable))[:_SHOWN])
            return UsageError(f"None of {_TRIES} samples drawn one after the other can be read: {listed}.")
        try:
            return replace(collate(samples, pad_px=self.pad_px), unreadable=unreadable)
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


@dataclass(frozen=True)
class _Drawn:
    """What was read for one place of a batch."""

    sample: Sample | None
    unreadable: list[tuple[int, str]]


class _TransformedSamples:
    """Reads and augments the sample at `(epoch, index)`, or others in its place while it cannot be read."""

    def __init__(self, sample_set: SampleSet, transform: Transform, seed: int) -> None:
        self._sample_set, self._transform, self._seed = sample_set, transform, seed
        self._classes = len(getattr(sample_set, "classes", ()))

    def draw(self, place: tuple[int, int]) -> _Drawn:
        replacements = np.random.default_rng((_REPLACEMENT, self._seed, *place))
        index, unreadable = place[1], list[tuple[int, str]]()
        for _ in range(_TRIES):
            try:
                rng = np.random.default_rng((_TRANSFORM, self._seed, *place))
                sample = self._sample_set[index]
                if place[0] == 0:  # once in a run
                    tell_left_out(sample)
                if self._classes:
                    check_labels(sample, self._classes)
                return _Drawn(self._transform(sample, rng), unreadable)
            except UsageError as error:
                unreadable.append((index, str(error)))
                index = int(replacements.integers(len(self._sample_set)))
        return _Drawn(None, unreadable)


def collate(samples: Sequence[Sample], *, pad_px: int | None = None) -> Batch:
    """Stack samples of one size.

    Args:
        samples: At least one.
        pad_px: Pad every sample right and bottom to this height and width: image 0 (mid-grey in [-1, 1], as in
            the reference), labels 255, mask 0, depth 0.

    Returns:
        Batch with `images` in [-1, 1] and whatever parts the samples have.

    Raises:
        UsageError: If sizes differ, a sample is larger than `pad_px`, parts are missing in some samples, or a
            sample has several texts.
    """
    if not samples:
        raise UsageError("no samples: a batch needs at least one")
    names = [sample.name for sample in samples]
    sizes = [sample.image.shape[:2] for sample in samples]
    if pad_px is not None:
        large = [f"{name} ({h}x{w})" for name, (h, w) in zip(names, sizes, strict=True) if max(h, w) > pad_px]
        if large:
            raise UsageError(f"larger than the {pad_px} px to pad to (height x width): {', '.join(large)}")
    elif len(set(sizes)) > 1:
        listed = ", ".join(f"{name} ({h}x{w})" for name, (h, w) in zip(names, sizes, strict=True))
        raise UsageError(
            f"samples of one batch differ in size (height x width): {listed}. "
            "Crop or resize them to one size, pass pad_px, or use batches of one"
        )
    several = [sample.name for sample in samples if len(sample.texts) > 1]
    if several:
        raise UsageError(f"samples with several texts: {', '.join(several)}. Draw one each first (`draw_text`)")
    texts = _part(samples, "texts")
    scenes = [sample.scene for sample in samples]
    return Batch(
        images=torch.stack([_padded(_scaled(sample.image), pad_px, 0) for sample in samples]),
        names=names,
        labels=_stack(_part(samples, "labels"), torch.int64, pad_px, IGNORE_LABEL),
        masks=_stack(_part(samples, "mask"), torch.int64, pad_px, 0),
        depth_m=_stack(_part(samples, "depth_m"), torch.float32, pad_px, 0, channel=True),
        texts=None if texts is None else [text for (text,) in texts],
        scenes=scenes if any(scenes) else None,
    )


def _part(samples: Sequence[Sample], name: str) -> list[Any] | None:
    """One part of every sample, or none where no sample has it; all or none must."""
    parts = [getattr(sample, name) for sample in samples]
    absent = [part is None or (isinstance(part, tuple) and not part) for part in parts]
    if any(absent) and not all(absent):
        without = ", ".join(sample.name for sample, is_absent in zip(samples, absent, strict=True) if is_absent)
        raise UsageError(f"samples without {name}, beside others that have it: {without}")
    return None if all(absent) else parts


def _scaled(image: NDArray[np.uint8]) -> Tensor:
    """`(H, W, 3)` levels -> `(3, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1


def _stack(
    parts: list[Any] | None, dtype: torch.dtype, pad_px: int | None, fill: int, *, channel: bool = False
) -> Tensor | None:
    """Parts `(H, W)` -> `(b, H, W)`, or `(b, 1, H, W)` with `channel`."""
    if parts is None:
        return None
    tensors = (torch.from_numpy(np.ascontiguousarray(part)).to(dtype) for part in parts)
    stacked = torch.stack([_padded(tensor, pad_px, fill) for tensor in tensors])
    return stacked[:, None] if channel else stacked


def _padded(values: Tensor, pad_px: int | None, fill: int) -> Tensor:
    height, width = values.shape[-2:]
    return values if pad_px is None else F.pad(values, (0, pad_px - width, 0, pad_px - height), value=fill)
