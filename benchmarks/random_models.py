"""Models with random weights for the benchmarks beside it, tiny ones too."""

from __future__ import annotations

from typing import Any

import torch

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.bench.measuring import SD15
from vpd.config import BackboneConfig, DepthConfig, ReferConfig, Resize, SegmentConfig, Task
from vpd.errors import UsageError
from vpd.tasks.segmentation import SegmentationModel

_LAYOUT = ("layers_per_block", "down_block_types", "up_block_types")
_TINY_UNET: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64}
_TINY_UNET |= {"attention_head_dim": 2}
_TINY_VAE: dict[str, Any] = {"block_out_channels": (32, 32, 64, 64)}
SIZES = {
    "tiny": {
        "unet": {name: SD15["unet"][name] for name in _LAYOUT} | _TINY_UNET,
        "vae": {name: SD15["vae"][name] for name in _LAYOUT[1:]} | _TINY_VAE,
    },
    "sd15": SD15,
}
"""Name -> arguments of diffusers' UNet and autoencoder: all layers of Stable Diffusion 1.5, narrow or as they are."""


def random_config(task: Task, size: str, num_classes: int = 1) -> Any:
    """What a model with random weights is.

    Args:
        task: `segment`, `refer` or `depth`; heads have their usual widths, or 32 and 64 channels where all is tiny.
        size: One of `SIZES`.
        num_classes: Classes or scenes that it tells apart, at most 255.

    Raises:
        UsageError: If there is no such size.
    """
    if size not in SIZES:
        raise UsageError(f"Unknown size {size!r}. Choose one of: {', '.join(SIZES)}.")
    shared: dict[str, Any] = {"backbone": BackboneConfig(**SIZES[size]), "fit": Resize()}
    names = tuple(f"class {number}" for number in range(num_classes))
    if task == "segment":
        return SegmentConfig(classes=names, **shared)
    if task == "refer":
        return ReferConfig(**shared, **({"head_channels": 32} if size == "tiny" else {}))
    tiny = {"head_channels": 32, "feature_channels": 64} if size == "tiny" else {}
    return DepthConfig(scenes=names, **shared, **tiny)


def random_model(size: str, num_classes: int = 1) -> SegmentationModel:
    """A segmentation model with random weights and prompts, in eval mode.

    Args:
        size: One of `SIZES`.
        num_classes: Classes that its head tells apart, at most 255.

    Raises:
        UsageError: If there is no such size.
    """
    config = random_config("segment", size, num_classes)
    backbone = StableDiffusionBackbone.from_config(config.backbone)
    model = SegmentationModel(config.model_copy(update={"backbone": backbone.config}), backbone=backbone)
    with torch.no_grad():
        model.class_embeddings.normal_()
    return model.eval()
