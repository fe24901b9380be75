"""How a model is measured on a data set: what is predicted for a sample, which metrics count it, how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpd.data.sample import Sample, SampleSet
from vpd.drawing.overlays import Shown
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import Memory
from vpd.tasks.model import PerceptionModel
from vpd.tasks.task import Measured


class Protocol:
    """What is done with each sample of a data set.

    Args:
        model: Whom to measure.
        sample_set: On what.
        caches: Where results of the frozen parts are kept; none = where the task keeps them, if anywhere.
        memory: As for `predict`.

    Raises:
        UsageError: If data and model do not fit one another.
    """

    def __init__(
        self,
        model: PerceptionModel[Any],
        sample_set: SampleSet,
        caches: FrozenCaches | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._model, self._measures = model, model.measures(sample_set)
        self._options = {"caches": caches or model.own_caches(), "memory": memory}
        self.metrics, self.words = self._measures.metrics, self._measures.words
        """What counts, and what that is in words, by the ending of the metrics' names."""

    def measure(self, samples: Sequence[Sample]) -> list[Measured]:
        """Predict samples, together where their sizes agree, and count each.

        Raises:
            UsageError: If a sample lacks what is needed, or has labels outside the classes.
        """
        return self._model.measure(samples, self._measures, **self._options)

    def shown(self, sample: Sample) -> Shown:
        """Truth and prediction of a sample as pictures."""
        words = self._model.words_of([sample])
        (prediction,) = self._model.predict([sample.image], **words, memory=self._options["memory"])
        return self._model.shown(sample, prediction)
