"""How each task is measured: what is predicted for a sample, which metrics count it, and how it is shown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vpd.data.nyu import NyuDepth
from vpd.data.samples import Sample, SampleSet
from vpd.errors import UsageError
from vpd.metrics.accumulator import Accumulator
from vpd.metrics.depth import DepthMetrics
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.pictures import colour_depth, colour_labels, mask_picture
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

logger = logging.getLogger(__name__)


class SegmentationProtocol:
    """Labels at the original size, all pixels of the data set together; single pass or as the model's fit says.

    Args:
        model: Whom to measure.
        sample_set: On what; its class names must be the model's, in number and order.

    Raises:
        UsageError: If the classes differ.
    """

    def __init__(self, model: SegmentationModel, sample_set: SampleSet) -> None:
        check_classes(sample_set.classes, model.config.classes)
        self._model = model
        self._metrics = SegmentationMetrics(len(model.config.classes))
        self.accumulators: dict[str, Accumulator] = {"": self._metrics}
        """What counts, by the suffix of the metrics' names."""

    def update(self, samples: Sequence[Sample]) -> None:
        """Predict and count samples."""
        predictions = self._model.predict([sample.image for sample in samples], batch_size=len(samples))
        for sample, prediction in zip(samples, predictions, strict=True):
            truth = torch.from_numpy(_truth(sample, "labels"))
            try:
                self._metrics.update(prediction.labels, truth)
            except ValueError as error:
                raise UsageError(f"Sample {sample.name}: {error}") from error

    def per_class(self) -> dict[str, dict[str, float]]:
        """IoU and accuracy of each class; NaN where it is absent."""
        values: dict[str, Any] = self._metrics.compute()
        rows = zip(self._model.config.classes, values["IoU"], values["Acc"], strict=True)
        return {name: {"IoU": iou, "Acc": accuracy} for name, iou, accuracy in rows}

    def pictures(self, sample: Sample) -> tuple[Image.Image, Image.Image]:
        """Truth and prediction in the colours of the classes."""
        number = len(self._model.config.classes)
        predicted = self._model.predict(sample.image).labels.numpy()
        return colour_labels(_truth(sample, "labels"), number), colour_labels(predicted, number)


class ReferringProtocol:
    """Masks at the original size; and, as published, with image and mask squashed to a square of the model's size.

    Args:
        model: Whom to measure.
    """

    def __init__(self, model: ReferringModel) -> None:
        self._model = model
        self._original, self._squashed = ReferringMetrics(), ReferringMetrics()
        self.accumulators: dict[str, Accumulator] = {"": self._original, "_squashed": self._squashed}
        """What counts, by the suffix of the metrics' names."""

    def update(self, samples: Sequence[Sample]) -> None:
        """Predict and count samples, each with its first expression."""
        texts = [_expression(sample) for sample in samples]
        masks = [_truth(sample, "mask") for sample in samples]
        images = [Image.fromarray(sample.image) for sample in samples]
        size = (self._model.config.fit.size_px,) * 2
        for metrics, pictures, targets in (
            (self._original, images, masks),
            (
                self._squashed,
                [image.resize(size, Image.Resampling.BILINEAR) for image in images],
                [
                    np.array(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
                    for mask in masks
                ],
            ),
        ):
            predictions = self._model.predict(pictures, text=texts, batch_size=len(samples))
            for prediction, target in zip(predictions, targets, strict=True):
                metrics.update(prediction.mask, torch.from_numpy(target))

    def per_class(self) -> dict[str, dict[str, float]]:
        """Nothing: expressions have no classes."""
        return {}

    def pictures(self, sample: Sample) -> tuple[Image.Image, Image.Image]:
        """Truth and prediction, each with its outline and the expression."""
        image, text = Image.fromarray(sample.image), _expression(sample)
        predicted = self._model.predict(image, text=text).mask.numpy()
        return mask_picture(image, _truth(sample, "mask"), text), mask_picture(image, predicted, text)


class DepthProtocol:
    """Depth in metres, errors averaged over images: NYU's crop and range for NYU, else the model's whole range.

    Args:
        model: Whom to measure.
        sample_set: On what.
    """

    def __init__(self, model: DepthModel, sample_set: SampleSet) -> None:
        self._model = model
        is_nyu = isinstance(sample_set, NyuDepth)
        self._metrics = DepthMetrics(
            min_depth_m=1e-3,
            max_depth_m=10.0 if is_nyu else model.config.max_depth_m,
            crop="nyu" if is_nyu else None,
        )
        self.accumulators: dict[str, Accumulator] = {"": self._metrics}
        """What counts, by the suffix of the metrics' names."""

    def update(self, samples: Sequence[Sample]) -> None:
        """Predict and count samples, each with its scene where the model knows it."""
        scenes = [self._scene(sample) for sample in samples]
        images = [sample.image for sample in samples]
        predictions = self._model.predict(images, scene=scenes, batch_size=len(samples))
        for sample, prediction in zip(samples, predictions, strict=True):
            self._metrics.update(prediction.depth_m, torch.from_numpy(_truth(sample, "depth_m")))

    def per_class(self) -> dict[str, dict[str, float]]:
        """Nothing: depth has no classes."""
        return {}

    def pictures(self, sample: Sample) -> tuple[Image.Image, Image.Image]:
        """Truth and prediction in colours of the truth's range."""
        truth = _truth(sample, "depth_m")
        measured = truth[truth > 0]
        near_m, far_m = (float(measured.min()), float(measured.max()) + 0.01) if measured.size else (0.0, 1.0)
        predicted = self._model.predict(sample.image, scene=self._scene(sample)).depth_m.numpy()
        return colour_depth(truth, near_m, far_m), colour_depth(predicted, near_m, far_m)

    def _scene(self, sample: Sample) -> str | None:
        return sample.scene if sample.scene in self._model.config.scenes else None


Protocol = SegmentationProtocol | ReferringProtocol | DepthProtocol


def protocol_of(model: PerceptionModel, sample_set: SampleSet) -> Protocol:
    """The protocol of a model's task.

    Raises:
        TypeError: If the model is none of the three.
        UsageError: If the classes of data and model differ.
    """
    if isinstance(model, SegmentationModel):
        return SegmentationProtocol(model, sample_set)
    if isinstance(model, ReferringModel):
        return ReferringProtocol(model)
    if isinstance(model, DepthModel):
        return DepthProtocol(model, sample_set)
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
