"""The exact metrics of a model on a data set, through `predict`, at the size of the original images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from vpd.config import Task
from vpd.data.samples import Sample, SampleSet
from vpd.errors import UsageError
from vpd.pictures import contact_sheet
from vpd.protocols import protocol_of
from vpd.tasks.model import PerceptionModel

SCORE: dict[Task, str] = {"segment": "mIoU", "refer": "oIoU", "depth": "rmse"}
"""The one metric that decides which checkpoint is best."""


def is_better(task: Task, new: float, old: float) -> bool:
    """Whether one `SCORE` beats another: errors shall be small, shares large; NaN beats nothing."""
    if math.isnan(old):
        return not math.isnan(new)
    return new < old if task == "depth" else new > old


def evaluate(
    model: PerceptionModel,
    sample_set: SampleSet,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Measure a model; `vpd.protocols` says what is measured for each task.

    Args:
        model: The model; how it fits images (windows, mirror image) is part of it.
        sample_set: Samples with the truth of the model's task.
        batch_size: Images that go through the network together where their sizes agree.
        limit: Use the first so many samples only.
        workers: Processes that read samples.
        accelerator: Where several processes share the work; each gets the metrics of all.
        watch: Wraps the batches, for a progress bar.

    Returns:
        `task`, `samples` (how many), `metrics` (name -> number), `per_class` (class -> name -> number, or empty).

    Raises:
        UsageError: If a sample cannot be read or lacks the truth, or the classes of data and model differ.
    """
    total = len(sample_set) if limit is None else min(limit, len(sample_set))
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    # shares may differ by one, and nothing is padded: every sample counts exactly once
    share = _Share(sample_set, range(rank, total, processes))
    protocol = protocol_of(model, sample_set)
    for samples in watch(DataLoader(share, batch_size=batch_size, collate_fn=list, num_workers=workers)):
        for sample in samples:
            if isinstance(sample, UsageError):
                raise sample
        protocol.update(samples)
    metrics: dict[str, float] = {}
    for suffix, accumulator in protocol.accumulators.items():
        if accelerator is not None and processes > 1:
            totals = accelerator.reduce(accumulator.totals.to(accelerator.device), reduction="sum")
            accumulator.totals = totals.cpu()
        values = accumulator.compute().items()
        metrics |= {name + suffix: value for name, value in values if isinstance(value, float)}
    return {"task": model.config.task, "samples": total, "metrics": metrics, "per_class": protocol.per_class()}


class _Share(Dataset[Sample | UsageError]):
    """Some samples of a set; one that cannot be read is its error, which would lose its message in a worker."""

    def __init__(self, sample_set: SampleSet, indices: Sequence[int]) -> None:
        self._sample_set, self._indices = sample_set, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> Sample | UsageError:
        try:
            return self._sample_set[self._indices[place]]
        except UsageError as error:
            return error


def sample_sheet(model: PerceptionModel, sample_set: SampleSet, *, count: int, caption: str = "") -> Image.Image:
    """Image, truth and prediction of a few samples, spread evenly over the data set, on one picture."""
    protocol = protocol_of(model, sample_set)
    count = min(count, len(sample_set))
    samples = [sample_set[place * len(sample_set) // count] for place in range(count)]
    rows = [[Image.fromarray(sample.image), *protocol.pictures(sample)] for sample in samples]
    return contact_sheet(rows, ("image", "truth", "prediction"), caption=caption)
