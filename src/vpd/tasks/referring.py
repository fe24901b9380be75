"""Referring segmentation: an expression and an image -> the mask of the object it means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Fit, Recipe, ReferConfig
from vpd.errors import UsageError
from vpd.heads.cascade import CascadeHead
from vpd.inference.cache import FrozenCaches, text_key
from vpd.inference.memory import Memory
from vpd.inference.plan import plan
from vpd.inference.resize import fitted_size, resize_strips
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.losses import LossSum, referring_loss_sum
from vpd.tasks.model import ImageSource, PerceptionModel, as_list, recipe_backbone
from vpd.tasks.predictions import MaskPrediction
from vpd.tensors import Batch

REFERENCE_FIT = Fit(mode="squash", size_px=512)


class ReferringModel(PerceptionModel):
    """Images and expressions -> logits of background and object.

    Args:
        config: What the model is.
        backbone: The diffusion model.
        text_encoder: Turns expressions into prompts; without it only `forward` works.

    Shape:
        images `(b, 3, H, W)` in [-1, 1], text_embeds `(b, k, d)` -> logits `(b, 2, H, W)`
    """

    config: ReferConfig

    def __init__(
        self,
        config: ReferConfig,
        *,
        backbone: StableDiffusionBackbone,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        head = CascadeHead(
            channels=backbone.channels_with_attention(config.token_length),
            hidden_channels=config.head_channels,
            norm=config.head_norm,
        )
        super().__init__(config, backbone=backbone, head=head, text_encoder=text_encoder)

    @classmethod
    def from_diffusion(
        cls,
        source: str | Path,
        *,
        recipe: Recipe = "default",
        fit: Fit | None = None,
        gradient_checkpointing: bool = False,
        backbone_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> ReferringModel:
        """A model to train: pre-trained diffusion weights and text encoder, a new head.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            recipe: `reference` as published, or `default`.
            fit: How `predict` fits images; none = squashed to 512x512, as the reference trains.
            gradient_checkpointing: Recompute the UNet's blocks in the backward pass.
            backbone_options: `latent_scaling`, `detach_maps`, `map_scale` or `timestep`, where not as the recipe has
                them.
            options: Other fields of `ReferConfig`, such as `token_length`.

        Raises:
            UsageError: If the source has no text encoder.
        """
        encoder = TextEncoder.from_pretrained(source)
        backbone = recipe_backbone(source, recipe, gradient_checkpointing, backbone_options or {})
        config = ReferConfig(recipe=recipe, backbone=backbone.config, fit=fit or REFERENCE_FIT, **options)
        return cls(config, backbone=backbone, text_encoder=encoder)

    def forward(self, images: Tensor, text_embeds: Tensor, *, caches: FrozenCaches | None = None) -> Tensor:
        """Logits `(b, 2, H, W)`."""
        height, width = images.shape[-2:]
        features = self._features(images, self.adapter(text_embeds), caches)
        logits = self.head(features.with_attention(self.backbone.config.map_scale))
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

    @overload
    def predict(self, images: ImageSource, **options: Any) -> MaskPrediction: ...

    @overload
    def predict(self, images: Sequence[ImageSource], **options: Any) -> list[MaskPrediction]: ...

    def predict(  # type: ignore[misc]  # the overloads leave the options open
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        text: str | Sequence[str],
        size: int | None = None,
        batch_size: int = 1,
        memory: Memory | None = None,
        caches: FrozenCaches | None = None,
    ) -> MaskPrediction | list[MaskPrediction]:
        """The mask that an expression means, at each image's own size.

        Args:
            images: A path, PIL image, `(H, W, 3)` uint8 array, or a list of them; any size.
            text: The expression; or one for each image.
            size: Side to run at, pixels; none = what the model was trained at.
            batch_size: Images of equal fitted size that go through the network together.
            memory: What the call may take, bytes or a text such as `4GB`: pictures, activations and outputs, over
                what the process holds. A picture that is too big for it is run smaller, never in windows, in which
                "on the left" would mean something else; its prediction's `note` says so. None = whatever it takes.
            caches: Where results of the frozen parts are kept from call to call, if anywhere.

        Returns:
            One prediction for one image, a list for a list.

        Raises:
            UsageError: If an image cannot be read, the number of expressions does not fit, or memory does not suffice
                for the smallest size.
        """
        sources, is_list = as_list(images)
        answers = self._predict(sources, text, self._fit(size), batch_size, caches, memory)
        predictions = [prediction for prediction, _ in answers]
        return predictions if is_list else predictions[0]

    def predict_with_fitted(
        self,
        images: Sequence[ImageSource],
        *,
        text: str | Sequence[str],
        batch_size: int = 1,
        memory: Memory | None = None,
        caches: FrozenCaches | None = None,
    ) -> list[tuple[MaskPrediction, Tensor]]:
        """Each prediction with the mask `(h, w)` bool at the model's own size, for the same arguments."""
        return self._predict(as_list(images)[0], text, self.config.fit, batch_size, caches, memory)

    def _predict(
        self,
        sources: list[ImageSource],
        text: str | Sequence[str],
        fit: Fit,
        batch_size: int,
        caches: FrozenCaches | None,
        memory: Memory | None,
    ) -> list[tuple[MaskPrediction, Tensor]]:
        texts = [text] * len(sources) if isinstance(text, str) else list(text)
        if len(texts) != len(sources):
            raise UsageError(f"There are {len(sources)} images but {len(texts)} expressions; give one, or one each.")
        predictions = []
        facts = {
            "channels": 2,
            "kept_bytes": 9,
            "text": lambda number: (number, self.config.token_length, self.backbone.text_dim),
            "smaller": self._fit,
        }
        with self.predicting():
            for group, fitted, *_, note in plan(self, memory, sources, fit, batch_size, **facts):
                embeds = self.encode_texts([texts[index] for index, _, _ in group], caches)
                pixels = torch.cat([pixels for _, _, pixels in group])
                logits = torch.cat(list(self._outputs(pixels, embeds, fitted, caches=caches)), dim=-2)
                for (index, picture, _), picture_logits in zip(group, logits, strict=True):
                    probability = torch.cat(
                        [
                            strip.softmax(dim=0)[1]
                            for strip in resize_strips(picture_logits, picture.height, picture.width)
                        ]
                    ).cpu()
                    prediction = MaskPrediction(
                        mask=probability > 0.5, probability=probability, text=texts[index], image=picture, note=note
                    )
                    fitted_logits, own = picture_logits, fitted_size(fit, picture.height, picture.width)
                    if note:  # it was run smaller
                        fitted_logits = torch.cat(list(resize_strips(picture_logits, *own)), dim=1)
                    predictions.append((prediction, (fitted_logits.softmax(dim=0)[1] > 0.5).cpu()))
        return predictions
