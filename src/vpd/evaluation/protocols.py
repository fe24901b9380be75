"""How a model is measured on a data set: how it fits images, what counts a sample, and how samples look on a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

from PIL import Image
from pydantic import ValidationError

from vpd.config import Resize
from vpd.data.sample import Sample, SampleSet
from vpd.drawing.overlays import Shown, contact_sheet
from vpd.drawing.text import Colour
from vpd.errors import UsageError, wrong_fields
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import Memory
from vpd.inference.outputs import OutputError
from vpd.tasks.failures import Diagnosis
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction
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
        self._model: Any = model
        self._measures = model.measures(sample_set)
        self._options: dict[str, Any] = {"caches": caches or model.own_caches(), "memory": memory}
        self.metrics, self.words = self._measures.metrics, self._measures.words
        """What counts, and what that is in words, by the ending of the metrics' names."""
        self.cut = self._measures.cut
        """Probability above which pixels belong to a mask, where that is what is measured."""
        self.device = model.device
        """Where the model is."""

    def without_model(self) -> Protocol:
        """What was measured and how, for figures alone: the model may be forgotten."""
        light = copy(self)
        light._model, light._options = None, {}
        return light

    def measure(self, samples: Sequence[Sample]) -> list[Measured]:
        """Predict samples, together where their sizes agree, and count each.

        Raises:
            UsageError: If a sample lacks what is needed, has labels outside the classes, or the model's outputs for it
                are not numbers: figures without it would be those of other data.
        """
        with _naming(samples):
            return self._model.measure(samples, self._measures, **self._options)

    def diagnose(self, sample: Sample, prediction: Prediction) -> Diagnosis:
        """What a report says of a sample beside its metrics."""
        return self._model.diagnose(sample, prediction, self._measures)

    def shown(self, sample: Sample) -> Shown:
        """Truth and prediction of a sample as pictures; raises as `measure`."""
        with _naming([sample]):
            words = self._model.words_of([sample])
            (prediction,) = self._model.predict([sample.image], **words, memory=self._options["memory"])
        return self._model.shown(sample, prediction)


@contextmanager
def _naming(samples: Sequence[Sample]) -> Iterator[None]:
    """Call a sample by its name where its outputs are not numbers."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"Sample {samples[error.number].name}: {error.reason}") from None


def draw_sheet(
    protocol: Protocol, samples: Sequence[Sample], *, words: Sequence[str] = (), caption: str = ""
) -> Image.Image:
    """Image, truth and prediction of samples below one another, with what the colours mean; `words` has a line each."""
    legend: Counter[tuple[Colour, str]] = Counter()
    rows, lines, scales_m = [], [], []
    for place, sample in enumerate(samples):
        shown = protocol.shown(sample)
        legend += shown.legend
        rows.append([Image.fromarray(sample.image), shown.truth, shown.prediction])
        lines.append(" · ".join(part for part in (words[place] if words else "", shown.words) if part))
        scales_m.append(shown.scale_m)
    titles = ("image", "truth", "prediction")
    return contact_sheet(rows, titles, words=lines, scales_m=scales_m, legend=legend, caption=caption)


def change_fit(model: PerceptionModel[Any], changes: Mapping[str, Any]) -> None:
    """Fit images differently from now on, such as `{"scales": [0.5, 1, 1.5], "flip": True}` for segmentation.

    Args:
        model: Whose `config.fit` changes.
        changes: Fields of `Resize`.

    Raises:
        UsageError: If a field is unknown, a value is wrong, or the task cannot do it; the model stays as it was.
    """
    if unknown := sorted(set(changes) - set(Resize.model_fields)):
        raise UsageError(f"Unknown keys of the fit: {', '.join(unknown)}. Known: {', '.join(Resize.model_fields)}.")
    settings = model.config.model_dump()
    settings["fit"] |= changes
    try:
        model.config = type(model.config).model_validate(settings)
    except ValidationError as error:
        problems = "; ".join(map(str, wrong_fields(error)))
        given = ", ".join(f"{name}={value}" for name, value in changes.items())
        raise UsageError(f"Images cannot be fitted by {given}: {problems}.") from error
