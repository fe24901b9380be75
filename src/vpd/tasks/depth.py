"""Metric depth: a scene prompt and diffusion features -> metres for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import DepthConfig, Fit, Recipe, unique_names
from vpd.errors import UsageError
from vpd.heads.deconv import DeconvHead
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import Memory
from vpd.inference.plan import Step, plan
from vpd.inference.resize import fit_picture, resize_stream, resize_strips
from vpd.inference.run import fitted_strips
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import embed_names
from vpd.prompts.names import published_prompts as read_published_prompts
from vpd.tasks.losses import LossSum, silog_loss_sum
from vpd.tasks.model import ImageSource, PerceptionModel, as_list, recipe_backbone
from vpd.tasks.predictions import DepthPrediction
from vpd.tensors import Batch

REFERENCE_FIT = Fit(mode="resize_short", size_px=480, max_long_px=1920, window_px=480, stride_px=160, flip=True)
"""640x480 is cut into two 480x480 windows, each run with its mirror image: 4 passes, as published."""

MEAN_SCENE = "mean of all scenes"
"""What a prediction says of its prompt where no scene was given."""


class DepthModel(PerceptionModel):
    """Images and scene prompts -> depth in metres.

    Args:
        config: What the model is.
        backbone: The diffusion model.
        text_encoder: Not needed: the scenes' embeddings travel with the model.

    Shape:
        images `(b, 3, H, W)` in [-1, 1], text_embeds `(b, 1, d)` -> `(b, 1, H, W)` metres
    """

    config: DepthConfig
    head: DeconvHead
    scene_embeddings: Tensor

    def __init__(
        self,
        config: DepthConfig,
        *,
        backbone: StableDiffusionBackbone,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        head = DeconvHead(
            channels=backbone.channels,
            strides=backbone.strides,
            max_depth_m=config.max_depth_m,
            feature_channels=config.feature_channels,
            deconv_channels=config.deconv_channels,
            head_channels=config.head_channels,
            norm=config.head_norm,
        )
        super().__init__(config, backbone=backbone, head=head, text_encoder=text_encoder)
        self.register_buffer("scene_embeddings", torch.zeros(len(config.scenes), backbone.text_dim))

    @classmethod
    def from_diffusion(
        cls,
        source: str | Path,
        *,
        scenes: Sequence[str],
        max_depth_m: float = 10.0,
        recipe: Recipe = "default",
        fit: Fit | None = None,
        gradient_checkpointing: bool = False,
        backbone_options: dict[str, Any] | None = None,
        published_prompts: bool = False,
        **options: Any,
    ) -> DepthModel:
        """A model to train: pre-trained diffusion weights, a new head.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            scenes: Names of scene classes to make prompts from, such as `kitchen`.
            max_depth_m: Largest depth the model can output, metres.
            recipe: `reference` as published, or `default`.
            fit: How `predict` fits images; none = short side 480, square windows, each with its mirror image.
            gradient_checkpointing: Recompute the UNet's blocks in the backward pass.
            backbone_options: `latent_scaling`, `detach_maps`, `map_scale` or `timestep`, where not as the recipe has
                them.
            published_prompts: Take the text embeddings that the published model was trained with, not the text
                encoder's; for the scenes of NYU.
            options: Other fields of `DepthConfig`.

        Raises:
            UsageError: If the source has no text encoder.
        """
        scenes = unique_names(scenes)
        encoder = TextEncoder.from_pretrained(source)
        backbone = recipe_backbone(source, recipe, gradient_checkpointing, backbone_options or {})
        config = DepthConfig(
            recipe=recipe,
            backbone=backbone.config,
            scenes=scenes,
            max_depth_m=max_depth_m,
            fit=fit or REFERENCE_FIT,
            **{"loss_over": "batch" if recipe == "reference" else "image", **options},
        )
        model = cls(config, backbone=backbone)
        prompts = (
            read_published_prompts(scenes, dim=backbone.text_dim) if published_prompts else embed_names(encoder, scenes)
        )
        model.scene_embeddings.copy_(prompts)
        return model

    def forward(
        self, images: Tensor, text_embeds: Tensor | None = None, *, caches: FrozenCaches | None = None
    ) -> Tensor:
        """Depth `(b, 1, H, W)`, metres; `text_embeds` `(b, 1, d)`, or none for the mean of all scenes."""
        height, width = images.shape[-2:]
        if text_embeds is None:
            text_embeds = self.scene_prompts([None] * len(images))
        fused = self.head.fused(self._features(images, self.adapter(text_embeds), caches).maps)
        # What was fused from the padding is cut off before decoding, as in the reference (480 px: 16 -> 15).
        stride = self.head.fused_stride
        fused = fused[..., : -(-height // stride), : -(-width // stride)]
        return self.head.decode(fused)[..., :height, :width]

    def scene_prompts(self, scenes: Sequence[str | None]) -> Tensor:
        """Embeddings of scenes, `(b, 1, d)`; the mean of all scenes where there is none.

        Raises:
            UsageError: If the model does not know a scene.
        """
        known = self.config.scenes
        rows = []
        for scene in scenes:
            if scene is not None and scene not in known:
                raise UsageError(f"This model does not know the scene {scene!r}. It knows: {', '.join(known)}.")
            rows.append(
                self.scene_embeddings.mean(dim=0) if scene is None else self.scene_embeddings[known.index(scene)]
            )
        return torch.stack(rows)[:, None]

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """Scale-invariant log errors of a batch with `depth_m`, and how many: one an image, or one of the batch."""
        if batch.depth_m is None:
            raise UsageError("Depth trains on depth maps; this data has none.")
        scenes = batch.scenes or [None] * len(batch.images)
        depth_m = self(batch.images, self.scene_prompts(scenes), caches=caches)
        return silog_loss_sum(depth_m, batch.depth_m, over=self.config.loss_over)

    @overload
    def predict(self, images: ImageSource, **options: Any) -> DepthPrediction: ...

    @overload
    def predict(self, images: Sequence[ImageSource], **options: Any) -> list[DepthPrediction]: ...

    def predict(  # type: ignore[misc]  # the overloads leave the options open
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        scene: str | Sequence[str | None] | None = None,
        size: int | None = None,
        batch_size: int = 1,
        memory: Memory | None = None,
        caches: FrozenCaches | None = None,
    ) -> DepthPrediction | list[DepthPrediction]:
        """Depth in metres at each image's own size.

        Args:
            images: A path, PIL image, `(H, W, 3)` uint8 array, or a list of them; any size.
            scene: Scene class, one of the model's; or one for each image; none = the mean of all.
            size: Short side to run at, pixels; none = what the model was trained at.
            batch_size: Images of equal fitted size that go through the network together.
            memory: What the call may take, bytes or a text such as `4GB`: pictures, activations and outputs, over
                what the process holds. A picture that is too big for it is run in smaller windows, blended without
                seams, and its prediction's `note` says so; none = whatever it takes.
            caches: Where results of the frozen parts are kept from call to call, if anywhere.

        Returns:
            One prediction for one image, a list for a list.

        Raises:
            UsageError: If an image cannot be read, a scene is not known, or memory does not suffice for the smallest
                windows.
        """
        sources, is_list = as_list(images)
        scenes = [scene] * len(sources) if scene is None or isinstance(scene, str) else list(scene)
        if len(scenes) != len(sources):
            raise UsageError(f"There are {len(sources)} images but {len(scenes)} scenes; give one, or one each.")
        embeds = self.scene_prompts(scenes) if scenes else self.scene_embeddings[:, None]
        fit = self._fit(size)
        predictions = []
        facts = {"channels": 1, "kept_bytes": 8, "text": lambda number: (number, 1, self.backbone.text_dim)}
        with self.predicting():
            for step in plan(self, memory, sources, fit, batch_size, **facts):
                group = step.group
                text_embeds = embeds[[index for index, _, _ in group]]
                for (index, picture, _), depth_m in zip(group, self._step(step, text_embeds, caches), strict=True):
                    predictions.append(
                        DepthPrediction(
                            depth_m=depth_m,
                            max_depth_m=self.config.max_depth_m,
                            scene=scenes[index] or MEAN_SCENE,
                            image=picture,
                            note=step.note,
                        )
                    )
        return predictions if is_list else predictions[0]

    def _step(self, step: Step, text_embeds: Tensor, caches: FrozenCaches | None) -> Iterator[Tensor]:
        """Depth `(H, W)` of each picture of a step, at its own size."""
        if step.rows:
            picture = step.group[0][1]
            fitted = fit_picture(picture, step.fit)
            run = partial(self._run, text_embeds=text_embeds, caches=caches)
            strips: Iterator[Tensor] = (strip[0] for strip in fitted_strips(run, fitted, step))
            if step.fit.flip:
                mirrored = (strip[0].flip(-1) for strip in fitted_strips(run, fitted, step, mirrored=True))
                strips = ((plain + other) / 2 for plain, other in zip(strips, mirrored, strict=True))
            resized = resize_stream(strips, fitted.height, picture.height, picture.width, rows=step.rows)
            yield torch.cat([strip.cpu() for strip in resized], dim=1)[0]
            return
        pixels = torch.cat([pixels for _, _, pixels in step.group])
        depths = self.fitted_depth(pixels, text_embeds, step.fit, caches=caches)
        for (_, picture, _), depth in zip(step.group, depths, strict=True):
            yield torch.cat(list(resize_strips(depth, picture.height, picture.width)), dim=1)[0].cpu()

    def fitted_depth(
        self,
        images: Tensor,
        text_embeds: Tensor,
        fit: Fit,
        forward: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        *,
        caches: FrozenCaches | None = None,
    ) -> Tensor:
        """Depth `(b, 1, h, w)` of fitted images, averaged over windows and, where `fit.flip`, mirror images."""
        depth = torch.cat(list(self._outputs(images, text_embeds, fit, forward, caches)), dim=-2)
        if not fit.flip:
            return depth
        mirrored = torch.cat(list(self._outputs(images.flip(-1), text_embeds, fit, forward, caches)), dim=-2)
        return (depth + mirrored.flip(-1)) / 2
