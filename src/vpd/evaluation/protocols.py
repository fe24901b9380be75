"""How each task is measured: what is predicted for a sample, which metrics count it, and how it is shown."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.data.sample import CountedDepth, Sample, SampleSet
from vpd.drawing.overlays import (
    UNKNOWN_COLOUR,
    Shown,
    class_legend,
    colour_depth,
    colour_labels,
    depth_range,
    tint_mask,
)
from vpd.errors import UsageError
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.inference.memory import Memory
from vpd.metrics.accumulator import Accumulator
from vpd.metrics.depth import DepthMetrics
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

logger = logging.getLogger(__name__)

SQUASHED = "_squashed"
"""End of the names of the metrics at the published protocol's masks."""

_REFER_CACHE_BYTES = 2**28

Measured = tuple[Prediction, dict[str, Tensor]]
"""What was predicted for a sample, and the row it adds to each of a protocol's metrics."""


class Protocol(ABC):
    """What is done with each sample of a data set."""

    metrics: dict[str, Accumulator]
    """What counts, by the ending of the metrics' names."""
    words: dict[str, str]
    """What is measured, in words, by the same endings."""

    _caches: FrozenCaches | None
    _memory: Memory | None

    @property
    def _options(self) -> dict[str, Any]:
        """What every call of `predict` is told."""
        return {"caches": self._caches, "memory": self._memory}

    @abstractmethod
    def measure(self, samples: Sequence[Sample]) -> list[Measured]:
        """Predict samples, together where their sizes agree, and count each.

        Raises:
            UsageError: If a sample lacks what is needed, or has labels outside the classes.
        """

    @abstractmethod
    def shown(self, sample: Sample) -> Shown:
        """Truth and prediction of a sample as pictures."""

    def _row(self, ending: str, sample: Sample, predicted: Tensor, truth: NDArray[Any]) -> Tensor:
        """What a sample adds to a metric, or what is wrong with it."""
        try:
            return self.metrics[ending].row(predicted, torch.from_numpy(truth))
        except ValueError as error:
            raise UsageError(f"Sample {sample.name}: {error}") from error


class SegmentationProtocol(Protocol):
    """Labels at the original size, all pixels of the data set together.

    Args:
        model: Whom to measure.
        sample_set: On what; its class names must be the model's, in number and order.
        caches: Where results of the frozen parts are kept, if anywhere.
        memory: As for `predict`.

    Raises:
        UsageError: If the classes differ.
    """

    def __init__(
        self,
        model: SegmentationModel,
        sample_set: SampleSet,
        caches: FrozenCaches | None = None,
        memory: Memory | None = None,
    ) -> None:
        check_classes(sample_set.classes, model.config.classes)
        self._model, self._classes, self._caches, self._memory = model, model.config.classes, caches, memory
        self.metrics = {"": SegmentationMetrics(len(self._classes))}
        self.words = {"": "labels at the size of the images, pixels of all samples together"}

    def measure(self, samples: Sequence[Sample]) -> list[Measured]:
        """Predict and count samples."""
        images = [sample.image for sample in samples]
        predictions = self._model.predict(images, batch_size=len(samples), **self._options)
        return [
            (prediction, {"": self._row("", sample, prediction.labels, _truth(sample, "labels"))})
            for sample, prediction in zip(samples, predictions, strict=True)
        ]

    def shown(self, sample: Sample) -> Shown:
        """Truth and prediction in the colours of the classes."""
        labels = _truth(sample, "labels"), self._model.predict(sample.image, memory=self._memory).labels.numpy()
        truth, predicted = (colour_labels(part, len(self._classes)) for part in labels)
        return Shown(truth, predicted, class_legend(np.stack(labels), self._classes))


class ReferringProtocol(Protocol):
    """Masks at the original size; and, as published, with image and mask squashed to a square of the model's size.

    Args:
        model: Whom to measure.
        caches: Where results of the frozen parts are kept; none = in 256 MB, so that images with several sentences
            are encoded once.
        memory: As for `predict`.
    """

    def __init__(self, model: ReferringModel, caches: FrozenCaches | None = None, memory: Memory | None = None) -> None:
        cache = TensorCache(_REFER_CACHE_BYTES)
        self._model, self._memory, fit = model, memory, model.config.fit
        self._caches = caches or FrozenCaches(latents=cache, texts=cache)
        self._size = (fit.size_px, fit.size_px)
        # the squashed image and what the model makes of the original are then the same pixels
        self._is_squashed_anyway = fit.mode == "squash" and fit.antialias
        self.metrics = {"": ReferringMetrics(), SQUASHED: ReferringMetrics()}
        side = f"{fit.size_px}x{fit.size_px} px"
        self.words = {
            "": "masks at the size of the images, every sentence a sample",
            SQUASHED: f"image and true mask squashed to {side}, as published; every sentence a sample",
        }

    def measure(self, samples: Sequence[Sample]) -> list[Measured]:
        """Predict and count samples, each with its first expression."""
        texts = [_expression(sample) for sample in samples]
        masks = [_truth(sample, "mask") for sample in samples]
        images = [Image.fromarray(sample.image) for sample in samples]
        answers = self._model.predict_with_fitted(images, text=texts, batch_size=len(samples), **self._options)
        squashed = [mask for _, mask in answers]
        if not self._is_squashed_anyway:
            squares = [image.resize(self._size, Image.Resampling.BILINEAR) for image in images]
            on_squares = self._model.predict(squares, text=texts, batch_size=len(samples), **self._options)
            squashed = [prediction.mask for prediction in on_squares]
        measured: list[Measured] = []
        for sample, (prediction, _), mask, on_square in zip(samples, answers, masks, squashed, strict=True):
            square = np.array(Image.fromarray(mask.astype(np.uint8)).resize(self._size, Image.Resampling.NEAREST))
            original = self._row("", sample, prediction.mask, mask)
            measured.append((prediction, {"": original, SQUASHED: self._row(SQUASHED, sample, on_square, square)}))
        return measured

    def shown(self, sample: Sample) -> Shown:
        """Truth and prediction, each with its outline, and the expression."""
        image, text = Image.fromarray(sample.image), _expression(sample)
        predicted = self._model.predict(image, text=text, memory=self._memory).mask.numpy()
        return Shown(tint_mask(image, _truth(sample, "mask")), tint_mask(image, predicted), words=f"“{text}”")


class DepthProtocol(Protocol):
    """Depth in metres, errors averaged over images; the data set says which true depth counts.

    Args:
        model: Whom to measure.
        sample_set: On what; `counted` without a largest depth means the model's range.
        caches: Where results of the frozen parts are kept, if anywhere.
        memory: As for `predict`.
    """

    def __init__(
        self,
        model: DepthModel,
        sample_set: SampleSet,
        caches: FrozenCaches | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._model, self._caches, self._memory = model, caches, memory
        counted = getattr(sample_set, "counted", CountedDepth())  # sets need not inherit from SampleSet
        metrics = DepthMetrics(
            min_depth_m=counted.min_depth_m,
            max_depth_m=counted.max_depth_m or model.config.max_depth_m,
            crop=counted.crop,
        )
        self.metrics = {"": metrics}
        part = f"inside the {metrics.crop} crop" if metrics.crop else "no crop"
        self.words = {
            "": f"errors averaged over images; true depth between {metrics.min_depth_m:g} and "
            f"{metrics.max_depth_m:g} m, {part}"
        }

    def measure(self, samples: Sequence[Sample]) -> list[Measured]:
        """Predict and count samples, each with its scene where the model knows it."""
        scenes = [self._scene(sample) for sample in samples]
        images = [sample.image for sample in samples]
        predictions = self._model.predict(images, scene=scenes, batch_size=len(samples), **self._options)
        return [
            (prediction, {"": self._row("", sample, prediction.depth_m, _truth(sample, "depth_m"))})
            for sample, prediction in zip(samples, predictions, strict=True)
        ]

    def shown(self, sample: Sample) -> Shown:
        """Truth and prediction in colours of the truth's range."""
        truth = _truth(sample, "depth_m")
        near_m, far_m = depth_range(truth)
        prediction = self._model.predict(sample.image, scene=self._scene(sample), memory=self._memory)
        predicted = prediction.depth_m.numpy()
        return Shown(
            colour_depth(truth, near_m, far_m),
            colour_depth(predicted, near_m, far_m),
            Counter({(UNKNOWN_COLOUR, "not measured"): int((truth <= 0).sum())}),
            scale_m=(near_m, far_m),
        )

    def _scene(self, sample: Sample) -> str | None:
        return sample.scene if sample.scene in self._model.config.scenes else None


def protocol_of(
    model: PerceptionModel,
    sample_set: SampleSet,
    caches: FrozenCaches | None = None,
    memory: Memory | None = None,
) -> Protocol:
    """The protocol of a model's task.

    Args:
        model: Whom to measure.
        sample_set: On what.
        caches: Where results of the frozen parts are kept, if anywhere.
        memory: As for `predict`.

    Raises:
        TypeError: If the model is none of the three.
        UsageError: If the classes of data and model differ.
    """
    if isinstance(model, SegmentationModel):
        return SegmentationProtocol(model, sample_set, caches, memory)
    if isinstance(model, ReferringModel):
        return ReferringProtocol(model, caches, memory)
    if isinstance(model, DepthModel):
        return DepthProtocol(model, sample_set, caches, memory)
    raise TypeError(f"{type(model).__name__} is none of the three task models.")


def check_classes(of_data: Sequence[str], of_model: Sequence[str]) -> None:
    """Make sure that label numbers mean the same in data and model.

    Other names of the same number are only warned of, because prompts may well be worded better than labels.

    Args:
        of_data: Class names of the data set; empty = not known.
        of_model: Class names of the model.

    Raises:
        UsageError: If the numbers of classes differ, or the same names stand in another order.
    """
    if not of_data or tuple(of_data) == tuple(of_model):
        return
    if len(of_data) != len(of_model):
        raise UsageError(
            f"The data has {len(of_data)} classes and the model {len(of_model)}: "
            f"{_shorten(of_data)} and {_shorten(of_model)}. Use the data the model was trained for."
        )
    place = next(n for n, (theirs, ours) in enumerate(zip(of_data, of_model, strict=True)) if theirs != ours)
    difference = f"class {place} is {of_data[place]!r} in the data and {of_model[place]!r} in the model"
    if set(of_data) == set(of_model):
        raise UsageError(f"Data and model have the same classes in another order: {difference}.")
    logger.warning("Labels are matched by number, though names differ: %s.", difference)


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _truth(sample: Sample, name: str) -> NDArray[Any]:
    truth = getattr(sample, name)
    if truth is None:
        raise UsageError(f"Sample {sample.name} has no {name}: this data does not fit the model's task.")
    return np.asarray(truth)


def _expression(sample: Sample) -> str:
    if not sample.texts:
        raise UsageError(f"Sample {sample.name} has no expression: this data does not fit the model's task.")
    return sample.texts[0]
