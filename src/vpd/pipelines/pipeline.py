"""`vpd.pipeline`: named as in transformers, and answers in the shapes of its pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from vpd.errors import UsageError
from vpd.inference.inputs import list_sources, read_source, source_name
from vpd.loading import load
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction

Answer = dict[str, Any]


def pipeline(
    task: str,
    model: str | Path | PerceptionModel[Any] | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    **options: Any,
) -> Pipeline:
    """A model behind the interface of transformers' pipelines.

    Args:
        task: `image-segmentation`, `depth-estimation` or `referring-segmentation`.
        model: Model folder, hub id, or a loaded model; `world` for the small one that comes with the package.
        device: As for `vpd.load`.
        dtype: As for `vpd.load`.
        revision: As for `vpd.load`.
        options: Of every call, such as `classes`, `scene`, `size`, `memory`, `batch_size`.

    Raises:
        UsageError: If there is no such pipeline, no model is given, or it is for another task.
    """
    if task not in PIPELINES:
        raise UsageError(f"There is no pipeline {task!r}. Choose one of: {', '.join(PIPELINES)}.")
    kind = PIPELINES[task]
    if model is None:
        raise UsageError(f"pipeline({task!r}, model=...): give a model folder or hub id; none is taken by itself.")
    given = f"world-{kind.task_word}" if str(model) == "world" else model
    found: PerceptionModel[Any] = (
        load(given, device=device, dtype=dtype, revision=revision) if isinstance(given, (str, Path)) else given
    )
    if found.task != kind.task_word:
        fitting = next((name for name, other in PIPELINES.items() if other.task_word == found.task), None)
        hint = f" Its pipeline is {fitting!r}." if fitting else ""
        raise UsageError(f"{task} needs a model for {kind.task_word}; this one is for {found.task}.{hint}")
    return kind(found, task, options)


class Pipeline:
    """Called with a picture or several, answers as transformers does: one answer, or a list of them.

    Args:
        model: Of the pipeline's task.
        task: The pipeline's name.
        options: Of every call of `predict`.
    """

    task_word: ClassVar[str]
    """Task of its models."""

    def __init__(self, model: PerceptionModel[Any], task: str, options: dict[str, Any]) -> None:
        self.model, self.task, self._options = model, task, options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Answers for pictures, of any kind that `predict` takes: one for one picture, a list for several.

        Raises:
            UsageError: As `predict`.
        """
        sources, is_list = list_sources(inputs)
        answers = self._answers(sources, {**self._options, **options})
        return answers if is_list else answers[0]

    def _answers(self, sources: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        return [self.answer(prediction) for prediction in self.model.predict(sources, **options)]

    def answer(self, prediction: Any) -> Any:
        """A prediction in the shape of transformers."""
        raise NotImplementedError(f"{type(self).__name__} does not say its answer.")


class ImageSegmentation(Pipeline):
    """As transformers answers for semantic segmentation: `{"score": None, "label": name, "mask": picture}` a class."""

    task_word = "segment"

    def answer(self, prediction: SegmentationPrediction) -> list[Answer]:
        """The classes in the picture, in the order of their numbers; masks are 0 or 255."""
        labels = prediction.numpy()
        present = [int(label) for label in np.unique(labels) if label < len(prediction.classes)]
        return [{"score": None, "label": prediction.classes[n], "mask": _mask(labels == n)} for n in present]


class DepthEstimation(Pipeline):
    """As transformers: `predicted_depth`, a tensor `(H, W)` in metres, and `depth`, a picture, far = bright."""

    task_word = "depth"

    def answer(self, prediction: DepthPrediction) -> Answer:
        """The picture goes from the nearest to the farthest depth of its own, as transformers' does."""
        depth_m = prediction.numpy()
        near_m, far_m = float(depth_m.min()), float(depth_m.max())
        shown = (depth_m - near_m) / (far_m - near_m or 1.0)
        picture = Image.fromarray((255 * shown).astype(np.uint8))
        return {"predicted_depth": prediction.depth_m, "depth": picture}


class ReferringSegmentation(Pipeline):
    """`text` is an expression, or several: each has `{"score", "label", "mask"}`, as in transformers' segmentation.

    The mask of an expression that nothing fits is empty. The score is whether it fits anything, from 0 to 1.
    """

    task_word = "refer"

    def _answers(self, sources: Sequence[Any], options: dict[str, Any]) -> list[list[Answer]]:
        texts = options.pop("text", None)
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, Iterable) or not (texts := list(texts)):
            raise UsageError("referring-segmentation needs words: pipe(image, text='the zebra on the left').")
        if len(texts) > 1:  # read once: an open file has no more to give, and decoding takes its time
            names = [source_name(source, number, len(sources)) for number, source in enumerate(sources)]
            sources = list(map(read_source, sources, names))
        ask: Callable[..., list[MaskPrediction]] = partial(self.model.predict, sources, **options)
        of_texts = [ask(text=text) for text in texts]
        return [[self.answer(prediction) for prediction in found] for found in zip(*of_texts, strict=True)]

    def answer(self, prediction: MaskPrediction) -> Answer:
        """One expression in one picture."""
        return {"score": prediction.presence, "label": prediction.text, "mask": _mask(prediction.numpy())}


PIPELINES: dict[str, type[Pipeline]] = {
    "image-segmentation": ImageSegmentation,
    "depth-estimation": DepthEstimation,
    "referring-segmentation": ReferringSegmentation,
}
"""By the names of transformers; it has none for expressions."""


def _mask(inside: np.ndarray[Any, np.dtype[np.bool_]]) -> Image.Image:
    return Image.fromarray(inside.astype(np.uint8) * np.uint8(255))
