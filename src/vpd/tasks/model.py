"""What the three task models share: backbone, text adapter, and the way an image takes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import DepthConfig, Fit, Recipe, ReferConfig, SegmentConfig
from vpd.images import read_image
from vpd.model_folder import save_model
from vpd.prompts.adapter import TextAdapter
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.inference import fit_image, slide
from vpd.types import Batch, Features

ImageSource = str | Path | Image.Image | NDArray[np.uint8]
"""A path, a PIL image, or an `(H, W, 3)` uint8 array."""


class PerceptionModel(nn.Module):
    """Backbone, text adapter and head of one task.

    Args:
        config: What the model is; travels with the saved model.
        backbone: The diffusion model.
        head: Feature maps -> outputs of the task.
        text_encoder: Where the task turns words into prompts while predicting or training.
    """

    config: SegmentConfig | ReferConfig | DepthConfig

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

    def loss(self, batch: Batch) -> Tensor:
        """Training loss of a batch, a scalar."""
        raise TypeError(f"{type(self).__name__} has no loss: use one of the three task models.")

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        """Eval mode without gradients; the mode is put back at the end."""
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(was_training)

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder that `vpd.load` reads back bit-equal."""
        save_model(self, folder)

    def _features(self, images: Tensor, text_embeds: Tensor) -> Features:
        """Features of images padded with zeros (mid-grey) at right and bottom to `output_multiple_px`."""
        height, width = images.shape[-2:]
        multiple = self.output_multiple_px
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        return self.backbone(padded, self.adapter(text_embeds))

    def _fit(self, size: int | None) -> Fit:
        """How images are fitted, with another size where the caller wants one."""
        fit = self.config.fit
        if size is None:
            return fit
        scale = size / fit.size_px
        changes: dict[str, Any] = {"size_px": size, "max_long_px": max(1, round(fit.max_long_px * scale))}
        if fit.mode == "native":
            changes["mode"] = "resize_short"
        return Fit.model_validate({**fit.model_dump(), **changes})

    def _outputs(
        self,
        images: Tensor,
        text_embeds: Tensor,
        fit: Fit,
        forward: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Strips of float32 outputs for fitted images; `slide` says what a strip is."""
        run = forward or self
        images, text_embeds = images.to(self.device, self.dtype), text_embeds.to(self.device, self.dtype)
        return slide(lambda windows: run(windows, text_embeds).float(), images, fit)


def recipe_backbone(source: str | Path, recipe: Recipe, *, gradient_checkpointing: bool) -> StableDiffusionBackbone:
    """The backbone as a recipe trains it: published = unscaled latents, no gradient through the maps."""
    reference = recipe == "reference"
    return StableDiffusionBackbone.from_pretrained(
        source,
        latent_scaling="none" if reference else "scaled",
        detach_maps=reference,
        gradient_checkpointing=gradient_checkpointing,
    )


def as_list(images: ImageSource | Sequence[ImageSource]) -> tuple[list[ImageSource], bool]:
    """The images as a list, and whether they came as one."""
    if isinstance(images, (list, tuple)):
        return list(images), True
    return [images], False  # type: ignore[list-item]


def read_groups(
    sources: list[ImageSource], fit: Fit, batch_size: int
) -> Iterator[list[tuple[int, Image.Image, Tensor]]]:
    """Groups of at most `batch_size` neighbours that have the same fitted size: (index, picture, pixels)."""
    group: list[tuple[int, Image.Image, Tensor]] = []
    for index, source in enumerate(sources):
        picture = read_image(source)
        pixels = fit_image(picture, fit)
        if group and (len(group) == batch_size or pixels.shape != group[0][2].shape):
            yield group
            group = []
        group.append((index, picture, pixels))
    if group:
        yield group
