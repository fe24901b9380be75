"""How well the demo's tasks were done, with intervals, beside an answer that does not look or does not listen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vpd.config import Task
from vpd.data.sample import Sample, SampleSet
from vpd.evaluation.evaluate import evaluate
from vpd.pages.parts import Figure as ShownFigure
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TASKS
from vpd.tasks.task import truth_of
from vpd.world.dataset import WorldSamples

BLIND: dict[Task, str] = {
    "segment": "answering the most frequent class everywhere",
    "refer": "the same model, given the expressions of other pictures",
    "depth": "answering the mean depth everywhere",
}
"""What each task is compared with; the tasks of the demo in their order."""
_BLIND_SCENES = 100
"""Training scenes from which the best constant answer is taken."""


@dataclass(frozen=True)
class Figure:
    """How well a task was done."""

    task: Task
    metric: str
    score: float
    """mIoU or oIoU as a fraction of 1, or RMSE in metres."""
    interval: tuple[float, float]
    """Its 95 % interval over scenes."""
    blind: float
    """What an answer reaches that does not look, or does not listen."""

    @property
    def is_error(self) -> bool:
        """Whether less is better, in metres."""
        return TASKS[self.task].score_is_error

    @property
    def name(self) -> str:
        """The metric as people write it."""
        return self.metric.upper() if self.is_error else self.metric

    def write(self, value: float) -> str:
        """The number with its unit."""
        return f"{value:.3f} m" if self.is_error else f"{100 * value:.1f} %"

    def words(self) -> str:
        """All of it in one line."""
        low, high = map(self.write, self.interval)
        return f"{self.name} {self.write(self.score)} [{low} to {high}]; {self.write(self.blind)} by {BLIND[self.task]}"

    def shown(self) -> ShownFigure:
        """The same for a page, on an axis to 100 %, or of an error to the larger of it and its baseline."""
        low, high = self.interval
        numbers = np.array([self.score, low, high, self.blind])
        end = float(np.nanmax(numbers)) if self.is_error else 1.0
        score, low, high, blind = np.nan_to_num(numbers / end).clip(0, 1).tolist()
        return ShownFigure(
            name=self.name,
            value=self.write(self.score),
            interval="" if any(map(np.isnan, self.interval)) else " to ".join(map(self.write, self.interval)),
            baseline=self.write(self.blind),
            baseline_words=BLIND[self.task],
            places=(score, low, high, blind),
            direction="lower" if self.is_error else "higher",
        )


def blind_score(model: PerceptionModel, samples: WorldSamples, *, batch_size: int = 10) -> float:
    """What an answer reaches that does not look at the picture, or does not listen to the expression.

    It is the mIoU of the most frequent class, the RMSE of the mean depth in metres, or the model's own oIoU with
    exchanged expressions.
    """
    if samples.task == "refer":
        return float(evaluate(model, _ExchangedTexts(samples), batch_size=batch_size)["metrics"][model.score])
    train = WorldSamples(samples.task, "train", _BLIND_SCENES, samples.size_px)
    truths = np.stack([truth_of(train[index], model.truth) for index in range(_BLIND_SCENES)])
    answer = float(np.mean(truths)) if samples.task == "depth" else int(np.bincount(truths.ravel()).argmax())
    metrics = model.measures(samples).metrics[""]
    for index in range(len(samples)):
        truth = torch.from_numpy(truth_of(samples[index], model.truth))
        metrics.update(torch.full_like(truth, answer), truth)
    return float(metrics.compute()[model.score])  # type: ignore[arg-type]


class _ExchangedTexts(SampleSet):
    """A set in which every sample has the expressions of the next."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        other = self._samples[(index + 1) % len(self._samples)]
        return replace(self._samples[index], texts=other.texts)
