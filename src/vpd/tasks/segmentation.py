"""Semantic segmentation: class prompts and diffusion features -> a class for every pixel."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Checkpointing, Recipe, Resize, SegmentConfig, unique_names
from vpd.data.colour import PhotometricDistortion
from vpd.data.geometric import RandomCrop, RandomFlip, RandomResize
from vpd.data.sample import Sample, SampleSet
from vpd.data.transforms import Pipeline
from vpd.drawing.errors import LABEL_LEGEND, label_errors
from vpd.drawing.overlays import MOST_IN_KEY, Shown, class_legend, colour_labels
from vpd.errors import UsageError
from vpd.heads.fpn import FPNHead
from vpd.heads.open_vocabulary import OpenVocabularyHead
from vpd.inference.cache import FrozenCaches
from vpd.inference.inputs import true_or_false
from vpd.inference.plan import MOST_OUTPUT_BYTES, Asked
from vpd.inference.resize import mean_of_streams, resize_stream
from vpd.metrics.segmentation import SegmentationMetrics, confusion_matrix
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import PLAIN_TEMPLATE, EmbedNames, check_templates, embed_names
from vpd.prompts.names import published_prompts as read_published_prompts
from vpd.tasks.classes import asked_classes, check_number, class_names, with_classes
from vpd.tasks.failures import Diagnosis, label_failure
from vpd.tasks.loss_settings import PLAIN, LossSettings
from vpd.tasks.losses import LossSum, segmentation_loss_sum
from vpd.tasks.model import PerceptionModel
from vpd.tasks.overlapping import class_labels, class_probabilities, one_class_loss_sum
from vpd.tasks.predictions import SegmentationPrediction
from vpd.tasks.recipes import recipe_backbone
from vpd.tasks.task import Measures, Seen, truth_of
from vpd.tensors import IGNORE_LABEL, Batch

logger = logging.getLogger(__name__)

REFERENCE_FIT = Resize(mode="resize_short", size_px=512, max_long_px=2048, antialias=False)
RATES = {"learning_rate": 8e-5, "weight_decay": 1e-3, "unet_lr_scale": 0.1, "batch_size": 16}
_MOST_CONFUSED = 256  # classes of a confusion matrix, which has the square of their number


class _Wanted(NamedTuple):
    """What a prediction says."""

    names: tuple[str, ...]
    """Of its classes."""
    keep: Tensor | None
    """Numbers of those among the outputs; none = all."""
    scores: bool


class SegmentationModel(PerceptionModel[SegmentationPrediction]):
    """Images and class prompts -> class logits.

    Words of `predict`: `classes`, other class names (a model with the `fpn` head takes a selection of its own, one with
    the `open` head any, if it was saved with its text encoder); `scores`, whether predictions shall have probabilities.

    Args:
        config: What the model is.
        backbone: The diffusion model.
        text_encoder: Needed only to take other classes at prediction time (`head="open"`).

    Shape:
        images `(b, 3, H, W)` in [-1, 1], any H and W -> logits `(b, n, H, W)`
    """

    task = "segment"
    config_type = SegmentConfig
    truth = "labels"
    words = ("classes", "scores")
    score = "mIoU"
    recipes: ClassVar = {
        "reference": {**RATES, "crop_px": 512, "steps": 80_000, "loss_reduction": "batch"},
        # a tenth of the steps reached 49 of 54 mIoU on ADE20K; gradients of a fresh head are held down
        "default": {**RATES, "crop_px": 512, "steps": 8_000, "clip_norm": 1.0, "loss_reduction": "global"},
    }
    published_schedule: ClassVar = {"kind": "poly", "power": 1.0, "warmup_steps": 1500}

    config: SegmentConfig
    head: nn.Module
    class_embeddings: Tensor

    def __init__(
        self,
        config: SegmentConfig,
        *,
        backbone: StableDiffusionBackbone,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        head = self.new_head(config, backbone)
        super().__init__(config, backbone=backbone, head=head, text_encoder=text_encoder)
        self.register_buffer("class_embeddings", torch.zeros(len(config.classes), backbone.text_dim))

    @staticmethod
    def new_head(config: SegmentConfig, backbone: Any) -> nn.Module:
        """The head of a configuration: maps with attention -> logits `(b, n, h, w)` at the finest map's size."""
        num_classes = len(config.classes)
        if config.head == "fpn":
            return FPNHead(
                channels=backbone.channels_with_attention(num_classes),
                out_channels=num_classes,
                hidden_channels=config.head_channels,
                dropout=config.dropout,
                norm=config.head_norm,
            )
        return OpenVocabularyHead(
            channels=backbone.channels,
            attention_strides=backbone.attention_strides,
            text_dim=backbone.text_dim,
            hidden_channels=config.head_channels,
            dropout=config.dropout,
            norm=config.head_norm,
            # older models with this head took probabilities, whatever the recipe said of maps
            map_scale=config.backbone.map_scale if config.overlap else "probability",
        )

    @classmethod
    def from_diffusion(
        cls,
        source: str | Path,
        *,
        classes: Sequence[str],
        recipe: Recipe = "default",
        fit: Resize | None = None,
        gradient_checkpointing: Checkpointing = False,
        templates: tuple[str, ...] | None = None,
        backbone_options: dict[str, Any] | None = None,
        published_prompts: bool = False,
        embed: EmbedNames | None = None,
        **options: Any,
    ) -> SegmentationModel:
        """A model to train: pre-trained diffusion weights, a new head.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            classes: Class names, in the order of the labels.
            recipe: `reference` as published, or `default`.
            fit: How `predict` fits images; none = short side 512, whole image.
            gradient_checkpointing: Recompute the UNet's blocks in the backward pass, or of them what is `cheap`.
            templates: Prompt sentences with `{}`; none = as the recipe has it (one, or CLIP's 80).
            backbone_options: Those of `BACKBONE_OPTIONS` that are not as the recipe has them.
            published_prompts: Take the embeddings that the published model was trained with; for the classes of ADE20K.
            embed: Makes the prompts, where neither; see `EmbedNames`.
            options: Other fields of `SegmentConfig`.

        Raises:
            UsageError: If the source has no text encoder, or a class name is empty or stands twice.
        """
        classes = unique_names(classes)
        encoder = TextEncoder.from_pretrained(source)
        reference = recipe == "reference"
        backbone = recipe_backbone(cls.backbone_type, source, recipe, gradient_checkpointing, backbone_options or {})
        config = SegmentConfig(
            recipe=recipe,
            backbone=backbone.config,
            classes=classes,
            templates=check_templates(templates or (PLAIN_TEMPLATE if reference else ())),
            fit=fit or (REFERENCE_FIT if reference else REFERENCE_FIT.model_copy(update={"antialias": True})),
            **{"count_ignored": reference, **options},
        )
        model = cls(config, backbone=backbone, text_encoder=encoder if config.head == "open" else None)
        if published_prompts:
            prompts = read_published_prompts(classes, dim=backbone.text_dim)
        else:
            prompts = embed(encoder, classes) if embed else embed_names(encoder, classes, templates=config.templates)
        model.class_embeddings.copy_(prompts)
        return model

    def forward(
        self, images: Tensor, text_embeds: Tensor | None = None, *, caches: FrozenCaches | None = None
    ) -> Tensor:
        """Logits `(b, n, H, W)`; `text_embeds` `(n, d)` or `(b, n, d)` replaces the model's own classes."""
        height, width = images.shape[-2:]
        adapted, text = self.read_prompts(text_embeds)
        padded, latents = self.padded(images, caches)
        features = self.backbone(padded, text, latents=latents)
        if isinstance(self.head, OpenVocabularyHead):
            logits = self.head(features, adapted)
        else:
            logits = self.head(features.with_attention(self.backbone.config.map_scale))
        stride = self.backbone.strides[0]
        size = (logits.shape[-2] * stride, logits.shape[-1] * stride)
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)[..., :height, :width]

    def with_classes(self, classes: Sequence[str], *, diffusion: str | Path | None = None) -> SegmentationModel:
        """A model for other classes to train on; see `vpd.tasks.classes.with_classes`."""
        return with_classes(self, classes, diffusion=diffusion)

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None, loss: LossSettings = PLAIN) -> LossSum:
        """Loss of a batch with `labels`, summed over pixels (of Dice: over pictures), and how many count."""
        if batch.labels is None:
            raise UsageError("Segmentation trains on label images; this data has none.")
        check_number(self.config.classes)
        try:
            logits = self(batch.images, caches=caches)
            options = loss.options(self.config.classes)
            if self.config.overlap:
                if loss.class_weights:
                    raise UsageError("loss.class_weights: classes that overlap all weigh the same. Leave it out.")
                return one_class_loss_sum(logits, batch.labels, kind=loss.kind)
            return segmentation_loss_sum(logits, batch.labels, count_ignored=self.config.count_ignored, **options)
        except IndexError as error:  # torch's word for a label that is no class; sample sets with classes find it first
            raise UsageError(f"{batch.names}: a label is outside the {logits.shape[1]} classes of the model") from error

    @classmethod
    def example_batch(cls, size: int, side_px: int) -> Batch:
        """See `Task`."""
        images, labels = torch.rand(size, 3, side_px, side_px) * 2 - 1, torch.zeros(size, side_px, side_px).long()
        return Batch(images=images, names=["trial"] * size, labels=labels)

    def prompts(self, number: int, *, classes: Sequence[str] | None = None, scores: bool = False) -> Asked:
        """See `Task`."""
        embeds, names, keep = asked_classes(self, classes)
        return Asked(
            text=lambda *_: embeds,
            text_shape=lambda _: None if embeds is None else tuple(embeds.shape),
            channels=len(self.config.classes) if embeds is None else len(embeds),
            kept_bytes=(3 if len(names) <= 255 else 6) + (8 * len(names) if scores else 0),
            words=_Wanted(names, keep, true_or_false(scores, "scores")),
        )

    def for_words(self, words: dict[str, Any]) -> tuple[SegmentationModel, dict[str, Any]]:
        """Prompts of new class names are made once, not for each call."""
        if words.get("classes") and self.config.head == "open":
            return self.with_classes(words["classes"]), {key: words[key] for key in words if key != "classes"}
        return self, words

    def combine(self, asked: Asked, seen: Seen) -> Iterator[Tensor]:
        """Class probabilities: as in the reference, each variant's logits are resized first, then averaged as such."""
        keep, read = asked.words.keep, partial(class_probabilities, overlap=self.config.overlap)
        streams = []
        for run in seen.runs:
            logits = run.strips if keep is None else (strip[keep] for strip in run.strips)
            resized = resize_stream(logits, run.height, *seen.size, rows=seen.rows)
            streams.append((map(read, resized), run.is_mirrored))
        return mean_of_streams(streams)

    def answer(self, asked: Asked, seen: Seen, strips: Iterator[Tensor]) -> SegmentationPrediction:
        """See `Task`."""
        dtype = torch.uint8 if len(asked.words.names) <= 255 else torch.int32
        labels, scores, done = torch.empty(0), None, 0  # where the outputs are, until all are there
        for strip in strips:
            rows = slice(done, done + strip.shape[1])
            labels = labels if done else torch.empty(seen.size, dtype=dtype, device=strip.device)
            labels[rows] = class_labels(strip, overlap=self.config.overlap).to(dtype)
            if asked.words.scores:
                if scores is None:  # many classes of a large picture take more than a card has
                    is_large = 4 * len(strip) * math.prod(seen.size) > MOST_OUTPUT_BYTES
                    scores = torch.empty(len(strip), *seen.size, device="cpu" if is_large else strip.device)
                scores[:, rows] = strip
            done = rows.stop
        labels, scores = labels.cpu(), None if scores is None else scores.cpu()
        return SegmentationPrediction(
            labels=labels, classes=asked.words.names, image=seen.image, scores=scores, note=seen.note
        )

    def looks_ahead(self, words: Mapping[str, Any]) -> bool:
        """For the classes that the legend of a video names, where they are too many for it."""
        return len(words.get("classes") or self.config.classes) > MOST_IN_KEY

    def constant_prompts(self) -> Tensor:
        """See `Task`."""
        return self.class_embeddings[None]

    @property
    def prompt_axis(self) -> Literal["classes", "fixed"]:
        """See `Task`."""
        return "classes" if self.config.head == "open" else "fixed"

    def measures(self, sample_set: SampleSet) -> Measures:
        """Labels at the original size, all pixels of the data set together; labels are the model's numbers."""
        check_number(self.config.classes)
        words = {"": "labels at the size of the images, pixels of all samples together"}
        return Measures({"": SegmentationMetrics(len(self.config.classes))}, words)

    def diagnose(self, sample: Sample, prediction: SegmentationPrediction, measures: Measures) -> Diagnosis:
        """What is most often taken for what, and of up to 256 classes the confusion matrix."""
        labels, classes = truth_of(sample, "labels"), self.config.classes
        kind, predicted = label_failure(prediction.numpy(), labels, classes), prediction.labels
        if len(classes) > _MOST_CONFUSED:
            return Diagnosis(kind)
        return Diagnosis(kind, {"confusion": confusion_matrix(predicted, torch.from_numpy(labels), len(classes))})

    def shown(self, sample: Sample, prediction: SegmentationPrediction) -> Shown:
        """In the colours of the classes."""
        labels = truth_of(sample, "labels"), prediction.labels.numpy()
        truth, predicted = (colour_labels(part, len(self.config.classes)) for part in labels)
        legend = class_legend(np.stack(labels), self.config.classes)
        errors = label_errors(prediction.image, prediction.numpy(), labels[0], IGNORE_LABEL)
        return Shown(truth, predicted, legend, errors=errors, error_legend=LABEL_LEGEND)

    @classmethod
    def begin(
        cls, source: str | Path, samples: SampleSet, given: Mapping[str, Any], **options: Any
    ) -> SegmentationModel:
        """See `Task`."""
        return cls.from_diffusion(source, classes=class_names(given.get("classes"), samples), **options)

    def go_on(self, samples: SampleSet, given: Mapping[str, Any], *, diffusion: str | None = None) -> SegmentationModel:
        """With the classes of the settings or the data; what the model knows of them it keeps."""
        names, own = class_names(given.get("classes"), samples), self.config.classes
        if names == own:
            return self
        added = [name for name in names if name not in own]
        logger.info("Classes now: %s; new: %s.", ", ".join(names), ", ".join(added) or "none")
        return self.with_classes(names, diffusion=diffusion)

    @classmethod
    def training_fit(cls, recipe: Recipe, crop_px: int) -> Resize:
        """See `Task`."""
        return Resize(size_px=crop_px, max_long_px=4 * crop_px, antialias=recipe == "default")

    @classmethod
    def augmentation(cls, recipe: Recipe, crop_px: int, *, max_depth_m: float = 10.0) -> Pipeline:
        """As published, in both recipes: short sides of 0.5 to 2 times the crop, at most 4 times as long."""
        resize = RandomResize(crop_px, 4 * crop_px, (0.5, 2.0), like_opencv=recipe == "reference")
        crop = RandomCrop(crop_px, max_class_share=0.75)
        return Pipeline((resize, crop, RandomFlip(), PhotometricDistortion()), pad_px=crop_px)

    @staticmethod
    def published_rule(name: str, parameter: Tensor) -> tuple[bool, bool]:
        """`norm` in a name beats `unet`: norms of the UNet's transformers train at the full rate, without decay."""
        return "unet" in name and "norm" not in name, "norm" not in name
