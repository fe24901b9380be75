"""What a task says of itself: words, loss, what it makes of the network's outputs, how it is measured and trained.

To add a task, write one file beside this one with a subclass of `PerceptionModel` that says all of this (`depth.py` is
the plainest), and a line in `table.py` for the command line. CONTRIBUTING.md has the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Recipe, Resize, TaskConfig
from vpd.data.sample import Sample, SampleSet
from vpd.data.transforms import Pipeline
from vpd.drawing.overlays import Shown
from vpd.errors import UsageError
from vpd.inference.cache import FrozenCaches
from vpd.inference.plan import Asked
from vpd.inference.resize import mean_of_streams, resize_stream
from vpd.metrics.accumulator import Accumulator
from vpd.overrides import Settings
from vpd.tasks.failures import Diagnosis
from vpd.tasks.losses import LossSum
from vpd.tasks.predictions import Prediction
from vpd.tensors import Batch

P = TypeVar("P", bound=Prediction)
"""What a task answers about one image."""

Measured = tuple[Prediction, dict[str, Tensor]]
"""What was predicted for a sample, and the row that it adds to each metric, by the ending of the metric's names."""


@dataclass(frozen=True)
class Run:
    """Outputs of the network for one variant of a picture."""

    strips: Tensor | Iterable[Tensor]
    """`(b, c, h, w)`, float32; or of one picture `(c, rows, w)` from top to bottom, to be used up once."""
    height: int
    """Rows of all of it."""
    is_mirrored: bool
    """Whether it is of the mirror image."""

    def of(self, place: int) -> Run:
        """That of one of the pictures that went through together."""
        return replace(self, strips=[self.strips[place]]) if isinstance(self.strips, Tensor) else self


@dataclass(frozen=True)
class Seen:
    """A picture that went through the network."""

    number: int
    """Its place in the call."""
    image: Image.Image
    """RGB, upright."""
    runs: Sequence[Run]
    """What the network made of it."""
    rows: int
    """Rows of the strips that it is answered in; 0 = as is best."""
    note: str
    """What was done to it for the sake of memory that changes the prediction."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.image.height, self.image.width


@dataclass(frozen=True)
class Measures:
    """What is measured on a data set."""

    metrics: dict[str, Accumulator]
    """By the ending of their names; the empty one is the main one."""
    words: dict[str, str]
    """What is measured, in words, by the same endings."""
    cut: float | None = None
    """Probability above which pixels belong to a mask, where that is what is measured."""

    def row(self, ending: str, sample: Sample, predicted: Tensor, truth: NDArray[Any]) -> Tensor:
        """What a sample adds to a metric.

        Raises:
            UsageError: If the truth does not fit the metric, as labels outside the classes.
        """
        try:
            return self.metrics[ending].row(predicted, torch.from_numpy(truth))
        except ValueError as error:
            raise UsageError(f"Sample {sample.name}: {error}") from error


class Task(Generic[P]):
    """The interface of a task; `PerceptionModel` is its other half, which is the same for all."""

    task: ClassVar[str]
    """Word of the command line, of configurations and of saved models, such as `segment`."""
    config_type: ClassVar[type[TaskConfig]]
    """Of its models."""
    backbone_type: ClassVar[type[Any]] = StableDiffusionBackbone
    """Of its backbones; another one has the same properties, `encode`, `read_text`, `from_config` and call."""
    truth: ClassVar[str]
    """Part of a sample that it learns and is measured by: `labels`, `mask` or `depth_m`."""
    words: ClassVar[tuple[str, ...]] = ()
    """Names of the words that `predict` takes, such as `text`."""
    reads_tokens: ClassVar[bool] = False
    """Whether its prompts are one embedding for each of `config.token_length` tokens of a text."""
    output: ClassVar[str] = "logits"
    """What `forward` gives, in an exported graph."""
    output_is_positive: ClassVar[bool] = False
    """Whether it is above 0 and its errors are ratios, as of depth: then logarithms are averaged over time."""
    score: ClassVar[str]
    """The one metric that decides which checkpoint is best, and which samples are worst."""
    score_is_error: ClassVar[bool] = False
    """Whether it shall be small."""
    recipes: ClassVar[Mapping[Recipe, Settings]]
    """Training settings: published (`reference`, where there is something published) and recommended (`default`)."""
    published_schedule: ClassVar[Settings] = {}
    """Course of the learning rate as published: fields of `vpd.training.config.ScheduleSettings`."""

    config: Any
    backbone: StableDiffusionBackbone
    predict: Any

    def prompts(self, number: int, *args: Any, **words: Any) -> Asked:
        """What is asked of the network for so many pictures.

        Args:
            number: How many pictures.
            args: None.
            words: Of the task: its classes, an expression, a scene.

        Raises:
            UsageError: If the words do not fit the model or the number of pictures.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say its prompts.")

    def answer(self, asked: Asked, seen: Seen, strips: Iterator[Tensor]) -> P:
        """The prediction for a picture, of what `combine` made of it; each strip may be overwritten by the next."""
        raise NotImplementedError(f"{type(self).__name__} does not say its answer.")

    def combine(self, asked: Asked, seen: Seen) -> Iterator[Tensor]:
        """Outputs `(c, rows, W)` at the picture's size: mirror images are averaged, then resized, then scales averaged.

        A strip may be overwritten when the next is asked for.
        """

        def resized(run: Run, strips: Iterable[Tensor]) -> Iterator[Tensor]:
            return resize_stream(strips, run.height, *seen.size, rows=seen.rows)

        (first, *others) = seen.runs
        if any(run.height != first.height for run in others):  # of several scales
            return mean_of_streams(
                [((strip.clone() for strip in resized(run, run.strips)), run.is_mirrored) for run in seen.runs]
            )
        copies = [(strip.clone() for strip in run.strips) if others else iter(run.strips) for run in seen.runs]
        mirrored = [run.is_mirrored for run in seen.runs]
        return resized(first, mean_of_streams(list(zip(copies, mirrored, strict=True))))

    def for_words(self, words: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Model and words for many calls of `predict` with the same words: what can be done once is done here."""
        return self, words

    def looks_ahead(self, words: Mapping[str, Any]) -> bool:
        """Whether a look at some frames of a clip decides what its pictures share, such as colours.

        Args:
            words: What the user asks of `predict`.
        """
        return False

    def shared_words(self, predictions: Sequence[Any]) -> dict[str, Any]:
        """Words of `predict` that give the pictures of a clip what they share, of predictions for some of its frames.

        Args:
            predictions: None for a stream, which nobody can look at before it is there.
        """
        return {}

    def constant_prompts(self) -> Tensor | None:
        """Prompts `(1, k, d)`, before the adapter, that `forward` takes where it is given none; none = it must be."""
        return None

    def own_prompts(self) -> Tensor:
        """Prompts `(n, d)` of what the model knows by name, before the adapter; n = 0 where it knows nothing so."""
        own = self.constant_prompts()
        return torch.empty(0, self.backbone.text_dim) if own is None else own[0]

    @property
    def prompt_axis(self) -> Literal["images", "classes", "fixed"]:
        """The first axis of the prompts that `forward` takes: a row an image, a row a class, or as many as ever."""
        return "images"

    def example_prompts(self, number: int) -> Tensor:
        """Prompts as `forward` takes them for so many images, to trace and try an exported graph with."""
        own, draw = self.own_prompts().cpu(), torch.Generator().manual_seed(number)
        if not len(own):
            return torch.randn((number, 1, self.backbone.text_dim), generator=draw)
        if self.prompt_axis == "images":
            own = own[torch.arange(number) % len(own)][:, None]
        elif self.prompt_axis == "classes":
            own = own[torch.arange(max(2, len(own) + number - 1)) % len(own)]
        return own + own.std() * torch.randn(own.shape, generator=draw)

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """The loss of a batch as total and weight, two scalars; those of several batches may be added up."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: use one of the tasks.")

    @classmethod
    def example_batch(cls, size: int, side_px: int) -> Batch:
        """Random images with truth at every pixel, to try what fits into memory."""
        raise NotImplementedError(f"{cls.__name__} has no example of a batch.")

    def measures(self, sample_set: SampleSet) -> Measures:
        """What is measured on a data set.

        Raises:
            UsageError: If it does not fit the model.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what is measured.")

    def words_of(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What `predict` is told of samples."""
        return {}

    def measure(self, samples: Sequence[Sample], measures: Measures, **options: Any) -> list[Measured]:
        """Predict samples, together where their sizes agree, and count each.

        Args:
            samples: At least one.
            measures: What `measures` gave for their data set.
            options: Of every call of `predict`.

        Raises:
            UsageError: If a sample lacks what is needed, or has labels outside the classes.
        """
        images, truths = [sample.image for sample in samples], [truth_of(sample, self.truth) for sample in samples]
        predictions = self.predict(images, batch_size=len(samples), **self.words_of(samples), **options)
        return [
            (prediction, {end: measures.row(end, sample, self.measured(prediction), truth) for end in measures.metrics})
            for sample, prediction, truth in zip(samples, predictions, truths, strict=True)
        ]

    def measured(self, prediction: Any) -> Tensor:
        """What of a prediction is held against the truth."""
        found: Tensor = getattr(prediction, self.truth)
        return found

    def diagnose(self, sample: Sample, prediction: Any, measures: Measures) -> Diagnosis:
        """What a report says of a sample beside its metrics: the kind of its error, and counts for charts."""
        return Diagnosis()

    def own_caches(self) -> FrozenCaches | None:
        """Where a measuring keeps results of the frozen parts if nobody says otherwise; none = nowhere."""
        return None

    def shown(self, sample: Sample, prediction: Any) -> Shown:
        """Truth and prediction of a sample as pictures."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a sample is shown.")

    @classmethod
    def begin(cls, source: str | Path, samples: SampleSet, given: Mapping[str, Any], **options: Any) -> Any:
        """A model to train on samples, from a diffusion model.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            samples: What it will be trained on.
            given: `classes`, `scenes` and `max_depth_m` of the training settings.
            options: Recipe, fit, gradient checkpointing, and other fields of the configuration.

        Raises:
            UsageError: If the settings do not fit the data.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how a model is begun.")

    def go_on(self, samples: SampleSet, given: Mapping[str, Any], *, diffusion: str | None = None) -> Any:
        """This model, or one made from it, to train further on samples; arguments and errors as for `begin`."""
        return self

    @classmethod
    def training_fit(cls, recipe: Recipe, crop_px: int) -> Resize:
        """How a model fits images that was trained on crops of so many pixels."""
        return Resize(size_px=crop_px, max_long_px=4 * crop_px)

    @classmethod
    def augmentation(cls, recipe: Recipe, crop_px: int, *, max_depth_m: float = 10.0) -> Pipeline:
        """What training does to samples."""
        raise NotImplementedError(f"{cls.__name__} does not say its augmentation.")

    @staticmethod
    def published_rule(name: str, parameter: Tensor) -> tuple[bool, bool]:
        """Whether the published recipe trains a parameter of this published name at the UNet's rate, and decays it."""
        raise UsageError("This task has no published recipe. Use recipe=default.")


def truth_of(sample: Sample, name: str) -> NDArray[Any]:
    """The part of a sample that a task is measured by.

    Raises:
        UsageError: If it has none.
    """
    truth = getattr(sample, name)
    if truth is None:
        raise UsageError(f"Sample {sample.name} has no {name}: this data does not fit the model's task.")
    return np.asarray(truth)
