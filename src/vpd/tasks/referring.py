"""Referring segmentation: an expression and an image -> the mask of the object it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Checkpointing, Recipe, ReferConfig, Resize
from vpd.data.colour import BrightnessContrast, HueSaturationValue
from vpd.data.geometric import RandomFlip, Squash
from vpd.data.sample import Sample, SampleSet
from vpd.data.transforms import Pipeline, draw_text
from vpd.drawing.errors import MASK_LEGEND, mask_errors
from vpd.drawing.overlays import Shown, tint_mask
from vpd.errors import UsageError
from vpd.heads.cascade import CascadeHead
from vpd.heads.grounded import GroundedHead
from vpd.inference.cache import FrozenCaches, TensorCache, text_key
from vpd.inference.inputs import one_each, true_or_false
from vpd.inference.plan import Asked
from vpd.inference.resize import fitted_size, resize_stream
from vpd.metrics.accumulator import Accumulator
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.thresholds import threshold_counts
from vpd.prompts.adapter import ReadingAdapter
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.failures import Diagnosis, mask_failure
from vpd.tasks.losses import LossSum, referring_loss_sum
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import MaskPrediction
from vpd.tasks.presence import Wanted, calibrated, raw_presence, read_thresholds
from vpd.tasks.recipes import recipe_backbone
from vpd.tasks.task import Measured, Measures, Seen, truth_of
from vpd.tensors import Batch

REFERENCE_FIT = Resize(mode="squash", size_px=512)
SQUASHED = "_squashed"
"""End of the names of the metrics at the published protocol's masks."""
# the published groups say a decay of 0.01, but nothing applies it
RATES = {"learning_rate": 5e-5, "weight_decay": 1e-2, "unet_lr_scale": 1.0, "batch_size": 32}
_CACHE_BYTES = 2**28


class ReferringModel(PerceptionModel[MaskPrediction]):
    """Images and expressions -> logits of background and object.

    Words of `predict`: `text`, the expression, or one for each image; `threshold`, the probability above which a pixel
    belongs to the object (that of the model, or 0.5); `min_presence`, below which nothing fits and the mask is empty
    (0); `fitted`, whether predictions shall have the mask at the size that the network sees too.

    Args:
        config: What the model is.
        backbone: The diffusion model.
        text_encoder: Turns expressions into prompts; without it only `forward` works.

    Shape:
        images `(b, 3, H, W)` in [-1, 1], text_embeds `(b, k, d)` -> logits `(b, 2, H, W)`
    """

    task = "refer"
    config_type = ReferConfig
    truth = "mask"
    words = ("text", "fitted", "threshold", "min_presence")
    reads_tokens = True
    score = "oIoU"
    recipes: ClassVar = {
        "reference": {**RATES, "crop_px": 512, "epochs": 40, "loss_reduction": "batch"},
        # a lower rate of the UNet is meant for referring too; a tenth, since a hundredth was never trained
        "default": {
            **RATES,
            "unet_lr_scale": 0.1,
            "crop_px": 512,
            "epochs": 40,
            "clip_norm": 1.0,
            "loss_reduction": "global",
        },
    }
    published_schedule: ClassVar = {"kind": "poly", "power": 0.9}

    config: ReferConfig

    def __init__(
        self,
        config: ReferConfig,
        *,
        backbone: StableDiffusionBackbone,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        length = config.token_length
        options: dict[str, Any] = {
            "channels": backbone.channels_with_attention(length),
            "hidden_channels": config.head_channels,
            "norm": config.head_norm,
        }
        super().__init__(
            config,
            backbone=backbone,
            head=CascadeHead(**options)
            if config.head == "cascade"
            else GroundedHead(text_dim=backbone.text_dim, token_length=length, **options),
            adapter=ReadingAdapter(backbone.text_dim, length) if config.adapter == "transformer" else None,
            text_encoder=text_encoder,
        )

    @classmethod
    def from_diffusion(
        cls,
        source: str | Path,
        *,
        recipe: Recipe = "default",
        fit: Resize | None = None,
        gradient_checkpointing: Checkpointing = False,
        backbone_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> ReferringModel:
        """A model to train: pre-trained diffusion weights and text encoder, a new head.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            recipe: `reference` as published, or `default`.
            fit: How `predict` fits images; none = squashed to 512x512, as the reference trains.
            gradient_checkpointing: Recompute the UNet's blocks in the backward pass, or of them what is `cheap`.
            backbone_options: Those of `BACKBONE_OPTIONS` that are not as the recipe has them.
            options: Other fields of `ReferConfig`, such as `token_length`.

        Raises:
            UsageError: If the source has no text encoder.
        """
        encoder = TextEncoder.from_pretrained(source)
        backbone = recipe_backbone(cls.backbone_type, source, recipe, gradient_checkpointing, backbone_options or {})
        config = ReferConfig(recipe=recipe, backbone=backbone.config, fit=fit or REFERENCE_FIT, **options)
        return cls(config, backbone=backbone, text_encoder=encoder)

    def forward(self, images: Tensor, text_embeds: Tensor, *, caches: FrozenCaches | None = None) -> Tensor:
        """Logits `(b, 2, H, W)`."""
        height, width = images.shape[-2:]
        words, text = self.read_prompts(text_embeds)
        padded, latents = self.padded(images, caches)
        features = self.backbone(padded, text, latents=latents)
        maps = features.with_attention(self.backbone.config.map_scale)
        logits = self.head(maps) if self.config.head == "cascade" else self.head(maps, words)
        stride = self.backbone.strides[0]
        size = (logits.shape[-2] * stride, logits.shape[-1] * stride)
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)[..., :height, :width]

    def encode_texts(self, texts: list[str], caches: FrozenCaches | None = None) -> Tensor:
        """Token embeddings of expressions, `(b, token_length, d)`.

        Raises:
            UsageError: If the model has no text encoder, or an expression is empty.
        """
        if self.text_encoder is None:
            raise UsageError(
                "This referring model has no text encoder, so it cannot read expressions. "
                "Convert it again with --diffusion and the Stable Diffusion model it was trained from."
            )
        if empty := [index for index, text in enumerate(texts) if not text.strip()]:
            raise UsageError(f"A referring expression must say something; number {empty[0] + 1} is empty.")
        encoder, length = self.text_encoder, self.config.token_length
        if caches is None or caches.texts is None:
            return encoder.tokens(texts, length=length)
        return caches.texts.rows(
            [text_key(text, length, self.device) for text in texts],
            lambda index: encoder.tokens([texts[index]], length=length)[0],
            device=self.device,
        )

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """Weighted cross-entropy of a batch with `masks` and `texts`, summed over pixels, and their weights' sum."""
        if batch.masks is None or batch.texts is None:
            raise UsageError("Referring segmentation trains on masks with expressions; this data has none.")
        text_embeds = self.encode_texts(batch.texts, caches).to(self.dtype)
        logits = self(batch.images, text_embeds, caches=caches)
        return referring_loss_sum(logits, batch.masks, class_weights=self.config.class_weights)

    @classmethod
    def example_batch(cls, size: int, side_px: int) -> Batch:
        """See `Task`."""
        images, masks = torch.rand(size, 3, side_px, side_px) * 2 - 1, torch.zeros(size, side_px, side_px).long()
        return Batch(images=images, names=["trial"] * size, masks=masks, texts=["trial"] * size)

    def example_prompts(self, number: int) -> Tensor:
        """See `Task`."""
        draw = torch.Generator().manual_seed(number)
        return torch.randn((number, self.config.token_length, self.backbone.text_dim), generator=draw)

    def prompts(
        self,
        number: int,
        *,
        text: str | Sequence[str] | None = None,
        fitted: bool = False,
        threshold: float | None = None,
        min_presence: float | None = None,
    ) -> Asked:
        """See `Task`; expressions are encoded a group of pictures at a time."""
        if text is None:
            raise UsageError("A referring model needs an expression: text='the zebra on the left'.")
        texts = one_each(text, number, "text")
        thresholds = read_thresholds(threshold, min_presence, of_model=self.config.threshold)
        return Asked(
            text=lambda numbers, caches: self.encode_texts([texts[index] for index in numbers], caches),
            text_shape=lambda count: (count, self.config.token_length, self.backbone.text_dim),
            channels=2,
            kept_bytes=9,
            smaller=self.fit_at,
            words=Wanted(texts, true_or_false(fitted, "fitted"), *thresholds),
        )

    def answer(self, asked: Asked, seen: Seen, strips: Iterator[Tensor]) -> MaskPrediction:
        """See `Task`."""
        probability, done = torch.empty(0), 0
        for strip in strips:
            probability = probability if done else torch.empty(seen.size, device=strip.device)
            probability[done : done + strip.shape[1]] = strip.softmax(dim=0)[1]
            done += strip.shape[1]
        probability = probability.cpu()
        wanted: Wanted = asked.words
        presence = calibrated(raw_presence(probability), self.config.presence)
        fits = not presence < wanted.min_presence
        return MaskPrediction(
            mask=(probability > wanted.threshold) & fits,
            probability=probability,
            text=wanted.texts[seen.number],
            image=seen.image,
            note=seen.note,
            fitted_mask=(self._fitted(seen) > wanted.threshold) & fits if wanted.fitted else None,
            presence=presence,
            presence_is_calibrated=self.config.presence is not None,
        )

    def _fitted(self, seen: Seen) -> Tensor:
        """The probability at the model's own size, also of a picture that was run smaller."""
        (logits,) = seen.runs[0].strips
        if seen.note:
            own = fitted_size(self.config.fit, *seen.size)
            logits = torch.cat(list(resize_stream([logits], logits.shape[-2], *own)), dim=1)
        return logits.softmax(dim=0)[1].cpu()

    def measures(self, sample_set: SampleSet) -> Measures:
        """Masks at the original size; and, as published, image and mask squashed to a square of the model's size."""
        side = f"{self.config.fit.size_px}x{self.config.fit.size_px} px"
        words = {
            "": "masks at the size of the images, every sentence a sample",
            SQUASHED: f"image and true mask squashed to {side}, as published; every sentence a sample",
        }
        metrics: dict[str, Accumulator] = {"": ReferringMetrics(), SQUASHED: ReferringMetrics()}
        return Measures(metrics, words, cut=read_thresholds(None, None, of_model=self.config.threshold)[0])

    def own_caches(self) -> FrozenCaches:
        """256 MB, so that images with several sentences are encoded once."""
        cache = TensorCache(_CACHE_BYTES)
        return FrozenCaches(latents=cache, texts=cache)

    def words_of(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The first expression of each."""
        return {"text": [_expression(sample) for sample in samples]}

    def measure(self, samples: Sequence[Sample], measures: Measures, **options: Any) -> list[Measured]:
        """See `Task`; squares are run too where the model does not see the original as just these pixels."""
        words, masks = self.words_of(samples), [truth_of(sample, "mask") for sample in samples]
        images, fit = [Image.fromarray(sample.image) for sample in samples], self.config.fit
        options = {**options, **words, "batch_size": len(samples)}
        predictions = self.predict(images, fitted=True, **options)
        squashed = [
            prediction.mask if prediction.fitted_mask is None else prediction.fitted_mask for prediction in predictions
        ]
        side = (fit.size_px, fit.size_px)
        if not (fit.mode == "squash" and fit.antialias):
            squares = [image.resize(side, Image.Resampling.BILINEAR) for image in images]
            squashed = [prediction.mask for prediction in self.predict(squares, **options)]
        measured: list[Measured] = []
        for sample, prediction, mask, on_square in zip(samples, predictions, masks, squashed, strict=True):
            square = np.array(Image.fromarray(mask.astype(np.uint8)).resize(side, Image.Resampling.NEAREST))
            rows = {"": measures.row("", sample, prediction.mask, mask)}
            measured.append((prediction, rows | {SQUASHED: measures.row(SQUASHED, sample, on_square, square)}))
        return measured

    def diagnose(self, sample: Sample, prediction: MaskPrediction, measures: Measures) -> Diagnosis:
        """How the mask misses the object, and pixels by threshold."""
        mask = truth_of(sample, "mask")
        counts = threshold_counts(prediction.probability, torch.from_numpy(mask))
        pixels = torch.tensor(int(mask.sum()))
        failure = mask_failure(prediction.numpy(), mask.astype(bool))
        return Diagnosis(failure, {"thresholds": counts, "object_pixels": pixels})

    def shown(self, sample: Sample, prediction: MaskPrediction) -> Shown:
        """Each with its outline, and the expression."""
        image, masks = Image.fromarray(sample.image), (truth_of(sample, "mask"), prediction.mask.numpy())
        truth, predicted = (tint_mask(image, mask) for mask in masks)
        errors = mask_errors(image, masks[1], masks[0].astype(bool))
        return Shown(truth, predicted, words=f"“{prediction.text}”", errors=errors, error_legend=MASK_LEGEND)

    @classmethod
    def begin(cls, source: str | Path, samples: SampleSet, given: Mapping[str, Any], **options: Any) -> ReferringModel:
        """See `Task`."""
        return cls.from_diffusion(source, **options)

    @classmethod
    def training_fit(cls, recipe: Recipe, crop_px: int) -> Resize:
        """See `Task`."""
        return Resize(mode="squash", size_px=crop_px)

    @classmethod
    def augmentation(cls, recipe: Recipe, crop_px: int, *, max_depth_m: float = 10.0) -> Pipeline:
        """Published: none; default: mirroring, which exchanges left and right in the text, and mild colour."""
        # no hue: the expressions name colours
        mild = (RandomFlip(), BrightnessContrast(), HueSaturationValue(hue_deg=0))
        return Pipeline((draw_text, *(() if recipe == "reference" else mild), Squash(crop_px)))

    @staticmethod
    def published_rule(name: str, parameter: Tensor) -> tuple[bool, bool]:
        """One rate for the whole UNet (its published scale 0.01 was never applied, so give 1); norms do not decay."""
        return "unet" in name, "norm" not in name


def _expression(sample: Sample) -> str:
    if not sample.texts:
        raise UsageError(f"Sample {sample.name} has no expression: this data does not fit the model's task.")
    return sample.texts[0]
