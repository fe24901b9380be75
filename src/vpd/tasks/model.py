"""What the three task models share: backbone, text adapter, and the way an image takes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import DepthConfig, Fit, LoraSettings, Recipe, ReferConfig, SegmentConfig
from vpd.errors import UsageError
from vpd.files.images import pad_to_multiple
from vpd.inference.cache import FrozenCaches, image_key
from vpd.inference.resize import slide
from vpd.model_folder import save_model
from vpd.prompts.adapter import PreparedText, TextAdapter
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.losses import LossSum, mean_loss
from vpd.tensors import Batch, Features, Text

ImageSource = str | Path | Image.Image | NDArray[np.uint8]
"""A path, a PIL image, or an `(H, W, 3)` uint8 array."""

BACKBONE_OPTIONS = ("latent_scaling", "detach_maps", "map_scale", "timestep")
"""What of the backbone a recipe decides and settings can change."""


class PerceptionModel(nn.Module):
    """Backbone, text adapter and head of one task.

    Args:
        config: What the model is; travels with the saved model.
        backbone: The diffusion model.
        head: Feature maps -> outputs of the task.
        text_encoder: Where the task turns words into prompts while predicting or training.
    """

    config: SegmentConfig | ReferConfig | DepthConfig
    prepared_text: PreparedText | None
    """The model's own prompts as constants, in a model made by `vpd.optimise`."""

    def __init__(
        self,
        config: SegmentConfig | ReferConfig | DepthConfig,
        *,
        backbone: StableDiffusionBackbone,
        head: nn.Module,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.adapter = TextAdapter(backbone.text_dim)
        self.head = head
        self.text_encoder = text_encoder
        self.prepared_text = None
        self.is_optimised = False
        """Whether `vpd.optimise` made it: then it predicts, and does nothing else."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.adapter.gamma.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.adapter.gamma.dtype

    @property
    def output_multiple_px(self) -> int:
        """Images are padded to a multiple of this, the stride of the coarsest map."""
        return self.backbone.strides[-1]

    def add_lora(self, settings: LoraSettings) -> None:
        """Put low-rank layers on the UNet's attention and freeze its other weights; outputs stay what they were.

        Raises:
            UsageError: If PEFT is not installed, or the model was optimised.
        """
        self._check_plain()
        self.backbone.add_lora(settings)
        self._tell_lora()

    def merge_lora(self) -> None:
        """Turn low-rank layers into plain weights, with outputs equal but for rounding; no layers, no change."""
        self.backbone.merge_lora()
        self._tell_lora()

    def _tell_lora(self) -> None:
        backbone = self.config.backbone.model_copy(update={"lora": self.backbone.config.lora})
        self.config = self.config.model_copy(update={"backbone": backbone})

    def loss(self, batch: Batch) -> Tensor:
        """Training loss of a batch, a scalar."""
        return mean_loss(*self.loss_sum(batch))

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """The loss of a batch as total and weight, two scalars; those of several batches may be added up."""
        raise TypeError(f"{type(self).__name__} has no loss: use one of the three task models.")

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Eval mode without gradients; the mode is put back at the end."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    def save(self, folder: str | Path, *, base: str | None = None, half: bool = False) -> None:
        """Write the model into a folder that `vpd.load` reads back bit-equal.

        Args:
            folder: Made if missing.
            base: `world`, or the hub id of the diffusion model that this one was adapted from. What they share is
                left out, and loading takes it from there: a model of mode `lora`, `frozen` or `head` then takes
                megabytes. Merged LoRA comes back equal to a millionth of the weights, all else bit-equal.
            half: Store in float16, rounded.

        Raises:
            UsageError: If the folder cannot be written, the base cannot be loaded, or the model was optimised.
        """
        self._check_plain()
        save_model(self.config, self.state_dict(), folder, text_encoder=self.text_encoder, base=base, half=half)

    def _check_plain(self) -> None:
        """Refuse to save or change a model whose weights are no longer those it was made from."""
        if self.is_optimised:
            raise UsageError(
                "A model made by vpd.optimise only predicts. Save, train or change the model that it was made from."
            )

    def _features(self, images: Tensor, adapted: Text, caches: FrozenCaches | None = None) -> Features:
        """Features of images padded with zeros (mid-grey) at right and bottom to `output_multiple_px`."""
        padded, _ = pad_to_multiple(images, self.output_multiple_px)
        if caches is None or caches.latents is None:
            return self.backbone(padded, adapted)
        latents = caches.latents.rows(
            [image_key(image) for image in padded],
            lambda index: self.backbone.encode(padded[index : index + 1])[0],
            device=padded.device,
        )
        return self.backbone(padded, adapted, latents=latents)

    def _fit(self, size: int | None) -> Fit:
        """How images are fitted, with another size where the caller wants one."""
        fit = self.config.fit
        if size is None:
            return fit
        if size < 1:
            raise UsageError(f"size={size}: give the short side to run at, in pixels, 1 or more.")
        scale = size / fit.size_px
        changes: dict[str, Any] = {"size_px": size, "max_long_px": max(1, round(fit.max_long_px * scale))}
        if fit.mode == "native":
            changes["mode"] = "resize_short"
        return Fit.model_validate({**fit.model_dump(), **changes})

    def _outputs(
        self,
        images: Tensor,
        text_embeds: Tensor | None,
        fit: Fit,
        forward: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        caches: FrozenCaches | None = None,
    ) -> Iterator[Tensor]:
        """Strips of float32 outputs for fitted images, with the model's own text where none is given; see `slide`."""
        images = images.to(self.device, self.dtype)
        text = None if text_embeds is None else text_embeds.to(self.device, self.dtype)
        run = partial(self._run, text_embeds=text, forward=forward, caches=caches)
        return slide(run, images, fit)

    def _run(
        self,
        images: Tensor,
        *,
        text_embeds: Tensor | None,
        forward: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        caches: FrozenCaches | None = None,
    ) -> Tensor:
        """Float32 outputs of fitted images or windows of them, by the model or by what stands for it."""
        run = forward or partial(self, caches=caches)
        text = None if text_embeds is None else text_embeds.to(self.device, self.dtype)
        return run(images.to(self.device, self.dtype), text).float()


def recipe_backbone(
    source: str | Path, recipe: Recipe, gradient_checkpointing: bool, changes: Mapping[str, Any]
) -> StableDiffusionBackbone:
    """The backbone as a recipe trains it: published = unscaled latents, maps as they are and without gradient.

    Args:
        source: Stable Diffusion: folder, hub id or single file.
        recipe: `reference` or `default`.
        gradient_checkpointing: Recompute the UNet's blocks in the backward pass.
        changes: `BACKBONE_OPTIONS` that are not as the recipe has them.

    Raises:
        UsageError: If a change is none of these.
    """
    reference = recipe == "reference"
    values = ("none" if reference else "scaled", reference, "probability" if reference else "log_ratio", 1)
    options = dict(zip(BACKBONE_OPTIONS, values, strict=True))
    if unknown := sorted(set(changes) - set(options)):
        raise UsageError(f"Unknown backbone options: {', '.join(unknown)}. Known: {', '.join(options)}.")
    return StableDiffusionBackbone.from_pretrained(
        source, gradient_checkpointing=gradient_checkpointing, **{**options, **changes}
    )


def as_list(images: ImageSource | Sequence[ImageSource]) -> tuple[list[ImageSource], bool]:
    """The images as a list, and whether they came as one."""
    if isinstance(images, (str, Path, Image.Image, np.ndarray)):
        return [images], False
    if isinstance(images, Tensor) or not isinstance(images, Iterable):
        raise UsageError(f"An image is a path, PIL image or (H, W, 3) uint8 array; got {type(images).__name__}.")
    return list(images), True
