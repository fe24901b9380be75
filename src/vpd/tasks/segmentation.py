"""Semantic segmentation: class prompts and diffusion features -> a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Fit, Recipe, SegmentConfig, unique_names
from vpd.errors import UsageError
from vpd.heads.fpn import FPNHead
from vpd.heads.open_vocabulary import OpenVocabularyHead
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import Memory
from vpd.inference.plan import Step, plan
from vpd.inference.resize import variants_of
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import PLAIN_TEMPLATE, check_templates, embed_names
from vpd.prompts.names import published_prompts as read_published_prompts
from vpd.tasks.labelling import label_group, label_scales, label_stream, select
from vpd.tasks.losses import LossSum, segmentation_loss_sum
from vpd.tasks.model import ImageSource, PerceptionModel, as_list, recipe_backbone
from vpd.tasks.new_classes import head_for_classes, new_prompts
from vpd.tasks.predictions import SegmentationPrediction
from vpd.tensors import Batch

REFERENCE_FIT = Fit(mode="resize_short", size_px=512, max_long_px=2048, antialias=False)


class SegmentationModel(PerceptionModel):
    """Images and class prompts -> class logits.

    Args:
        config: What the model is.
        backbone: The diffusion model.
        text_encoder: Needed only to take other classes at prediction time (`head="open"`).

    Shape:
        images `(b, 3, H, W)` in [-1, 1], any H and W -> logits `(b, n, H, W)`
    """

    config: SegmentConfig
    head: FPNHead | OpenVocabularyHead
    class_embeddings: Tensor

    def __init__(
        self,
        config: SegmentConfig,
        *,
        backbone: StableDiffusionBackbone,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        num_classes = len(config.classes)
        head: FPNHead | OpenVocabularyHead
        if config.head == "fpn":
            head = FPNHead(
                channels=backbone.channels_with_attention(num_classes),
                out_channels=num_classes,
                hidden_channels=config.head_channels,
                dropout=config.dropout,
                norm=config.head_norm,
            )
        else:
            head = OpenVocabularyHead(
                channels=backbone.channels,
                attention_strides=backbone.attention_strides,
                text_dim=backbone.text_dim,
                hidden_channels=config.head_channels,
                dropout=config.dropout,
                norm=config.head_norm,
            )
        super().__init__(config, backbone=backbone, head=head, text_encoder=text_encoder)
        self.register_buffer("class_embeddings", torch.zeros(num_classes, backbone.text_dim))

    @classmethod
    def from_diffusion(
        cls,
        source: str | Path,
        *,
        classes: Sequence[str],
        recipe: Recipe = "default",
        fit: Fit | None = None,
        gradient_checkpointing: bool = False,
        templates: tuple[str, ...] | None = None,
        backbone_options: dict[str, Any] | None = None,
        published_prompts: bool = False,
        **options: Any,
    ) -> SegmentationModel:
        """A model to train: pre-trained diffusion weights, a new head.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            classes: Class names, in the order of the labels.
            recipe: `reference` as published, or `default`.
            fit: How `predict` fits images; none = short side 512, whole image.
            gradient_checkpointing: Recompute the UNet's blocks in the backward pass.
            templates: Prompt sentences with `{}`; none = as the recipe has it (one, or CLIP's 80).
            backbone_options: `latent_scaling`, `detach_maps`, `map_scale` or `timestep`, where not as the recipe has
                them.
            published_prompts: Take the text embeddings that the published model was trained with, not the text
                encoder's; for the classes of ADE20K.
            options: Other fields of `SegmentConfig`.

        Raises:
            UsageError: If the source has no text encoder, or a class name is empty or stands twice.
        """
        classes = unique_names(classes)
        encoder = TextEncoder.from_pretrained(source)
        reference = recipe == "reference"
        backbone = recipe_backbone(source, recipe, gradient_checkpointing, backbone_options or {})
        config = SegmentConfig(
            recipe=recipe,
            backbone=backbone.config,
            classes=classes,
            templates=check_templates(templates or (PLAIN_TEMPLATE if reference else ())),
            fit=fit or (REFERENCE_FIT if reference else REFERENCE_FIT.model_copy(update={"antialias": True})),
            **{"count_ignored": reference, **options},
        )
        model = cls(config, backbone=backbone, text_encoder=encoder if config.head == "open" else None)
        prompts = (
            read_published_prompts(classes, dim=backbone.text_dim)
            if published_prompts
            else embed_names(encoder, classes, templates=config.templates)
        )
        model.class_embeddings.copy_(prompts)
        return model

    def forward(
        self, images: Tensor, text_embeds: Tensor | None = None, *, caches: FrozenCaches | None = None
    ) -> Tensor:
        """Logits `(b, n, H, W)`; `text_embeds` `(n, d)` or `(b, n, d)` replaces the model's own classes."""
        height, width = images.shape[-2:]
        if text_embeds is None and self.prepared_text is not None:
            adapted, text = self.prepared_text.embeds, self.prepared_text.layers
        else:
            text_embeds = self.class_embeddings if text_embeds is None else text_embeds
            adapted = text = self.adapter(text_embeds if text_embeds.ndim == 3 else text_embeds[None])
        features = self._features(images, text, caches)
        if isinstance(self.head, FPNHead):
            logits = self.head(features.with_attention(self.backbone.config.map_scale))
        else:
            logits = self.head(features, adapted)
        stride = self.backbone.strides[0]
        size = (logits.shape[-2] * stride, logits.shape[-1] * stride)
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)[..., :height, :width]

    def with_classes(self, classes: Sequence[str], *, diffusion: str | Path | None = None) -> SegmentationModel:
        """A model for other classes to train on; weights and prompts of classes that both have are taken over.

        With the published head, a new class starts with an unused attention map and a fresh row in the last
        layer. Backbone and adapter are shared with this model, which should not be used afterwards.

        Args:
            classes: All classes of the new model, in the order of its labels.
            diffusion: Where to take the text encoder for new prompts from; none = the model's own, or the
                diffusion model it was made from.

        Raises:
            UsageError: If new prompts are needed and there is no text encoder, or the model was optimised.
        """
        self._check_plain()
        names, known = unique_names(classes), self.config.classes
        old = [known.index(name) if name in known else None for name in names]
        config = self.config.model_copy(update={"classes": names})
        changed = SegmentationModel(config, backbone=self.backbone, text_encoder=self.text_encoder)
        changed.to(device=self.device, dtype=self.dtype).train(self.training)
        changed.adapter = self.adapter
        embeds = dict(zip(known, self.class_embeddings, strict=True))
        if added := [name for name in names if name not in known]:
            prompts = new_prompts(self, added, templates=config.templates, diffusion=diffusion)
            embeds |= zip(added, prompts.to(self.class_embeddings), strict=True)
        changed.class_embeddings.copy_(torch.stack([embeds[name] for name in names]))
        if isinstance(self.head, FPNHead):
            state = head_for_classes(self.head.state_dict(), changed.head.state_dict(), self.backbone.channels, old)
            changed.head.load_state_dict(state)
        else:
            changed.head = self.head
        return changed

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """Cross-entropy of a batch with `labels`, summed over pixels, and how many count."""
        if batch.labels is None:
            raise UsageError("Segmentation trains on label images; this data has none.")
        logits = self(batch.images, caches=caches)
        return segmentation_loss_sum(logits, batch.labels, count_ignored=self.config.count_ignored)

    @overload
    def predict(self, images: ImageSource, **options: Any) -> SegmentationPrediction: ...

    @overload
    def predict(self, images: Sequence[ImageSource], **options: Any) -> list[SegmentationPrediction]: ...

    def predict(  # type: ignore[misc]  # the overloads leave the options open
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        classes: Sequence[str] | None = None,
        size: int | None = None,
        batch_size: int = 1,
        scores: bool = False,
        memory: Memory | None = None,
        caches: FrozenCaches | None = None,
    ) -> SegmentationPrediction | list[SegmentationPrediction]:
        """Labels at each image's own size.

        Args:
            images: A path, PIL image, `(H, W, 3)` uint8 array, or a list of them; any size.
            classes: Other class names. A model with the `fpn` head takes a selection of its own; one with the
                `open` head takes any, if it was saved with its text encoder.
            size: Short side to run at, pixels; none = what the model was trained at.
            batch_size: Images of equal fitted size that go through the network together.
            scores: Also return the probabilities, `(n, H, W)` float32.
            memory: What the call may take, bytes or a text such as `4GB`: pictures, activations and outputs, over
                what the process holds. A picture that is too big for one pass is run in windows, blended without
                seams, and its prediction's `note` says so; none = whatever it takes.
            caches: Where results of the frozen parts are kept from call to call, if anywhere.

        Returns:
            One prediction for one image, a list for a list.

        Raises:
            UsageError: If an image cannot be read, the classes cannot be predicted, or memory does not suffice for
                the smallest windows.
        """
        sources, is_list = as_list(images)
        text_embeds, names, keep = self._class_prompts(classes)
        fit = self._fit(size)
        predictions = []
        number = len(self.config.classes) if text_embeds is None else len(text_embeds)
        facts = {
            "channels": number,
            "kept_bytes": 3 + (8 * len(names) if scores else 0),
            "text": lambda _: None if text_embeds is None else tuple(text_embeds.shape),
        }
        with self.predicting():
            one_scale = fit.scales == (1.0,)
            for step in plan(self, memory, sources, fit, batch_size if one_scale else 1, **facts):
                for picture, labels, probs in self._step(step, text_embeds, keep, scores, caches):
                    predictions.append(
                        SegmentationPrediction(
                            labels=labels, classes=names, image=picture, scores=probs, note=step.note
                        )
                    )
        return predictions if is_list else predictions[0]

    def _step(
        self, step: Step, text_embeds: Tensor | None, keep: Tensor | None, scores: bool, caches: FrozenCaches | None
    ) -> Iterator[tuple[Image.Image, Tensor, Tensor | None]]:
        """Each picture of a step with its labels (and probabilities)."""
        if step.rows:
            run = partial(self._run, text_embeds=text_embeds, caches=caches)
            return label_stream(lambda images: select(run(images), keep), step, scores=scores)
        strips = (
            (self._outputs(images, text_embeds, step.fit, caches=caches), flipped)
            for images, flipped in variants_of(step.group, step.fit)
        )
        label = label_group if step.fit.scales == (1.0,) else label_scales
        return label(step.group, strips, keep, scores=scores)

    def _class_prompts(self, classes: Sequence[str] | None) -> tuple[Tensor | None, tuple[str, ...], Tensor | None]:
        """Text embeddings to run with (none = the model's own), names of the result, logits to keep (none = all)."""
        own = self.config.classes
        if classes is None:
            return None, own, None
        wanted = unique_names(classes)
        if all(name in own for name in wanted):
            keep = torch.tensor([own.index(name) for name in wanted], device=self.device)
            return None, wanted, keep
        unknown = [name for name in wanted if name not in own]
        if self.config.head == "fpn":
            raise UsageError(
                f"This model's head was made for its {len(own)} classes and cannot predict {', '.join(unknown)}. "
                f"It knows: {', '.join(own[:20])}{' ...' if len(own) > 20 else ''}. Choose among these, train on "
                'with the new classes, or train a model with the "open" head.'
            )
        if self.text_encoder is None:
            raise UsageError(
                f"This model was saved without text encoder, so it cannot make prompts for {', '.join(unknown)}."
            )
        return embed_names(self.text_encoder, wanted, templates=self.config.templates), wanted, None
