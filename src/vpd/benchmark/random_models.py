"""Models with random weights, for time and memory alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import BackboneConfig, DepthConfig, Fit, ReferConfig, SegmentConfig, Task
from vpd.errors import UsageError
from vpd.tasks.model import PerceptionModel
from vpd.tasks.segmentation import SegmentationModel

Model = TypeVar("Model", bound=PerceptionModel)

_FOUR_LEVELS: dict[str, dict[str, Any]] = {
    "unet": {
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "vae": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
}
_SD15_UNET: dict[str, Any] = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
_SD15_UNET |= {"attention_head_dim": 8, "sample_size": 64}
_SD15_VAE: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
_SD15_VAE |= {"latent_channels": 4, "scaling_factor": 0.18215, "sample_size": 512}
_TINY_UNET: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64}
_TINY_UNET |= {"attention_head_dim": 2}
_TINY_VAE: dict[str, Any] = {"block_out_channels": (32, 32, 64, 64)}
SIZES = {
    "tiny": {"unet": _FOUR_LEVELS["unet"] | _TINY_UNET, "vae": _FOUR_LEVELS["vae"] | _TINY_VAE},
    "sd15": {"unet": _FOUR_LEVELS["unet"] | _SD15_UNET, "vae": _FOUR_LEVELS["vae"] | _SD15_VAE},
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
    shared: dict[str, Any] = {"backbone": BackboneConfig(**SIZES[size]), "fit": Fit()}
    names = tuple(f"class {number}" for number in range(num_classes))
    if task == "segment":
        return SegmentConfig(classes=names, **shared)
    if task == "refer":
        return ReferConfig(**shared, **({"head_channels": 32} if size == "tiny" else {}))
    tiny = {"head_channels": 32, "feature_channels": 64} if size == "tiny" else {}
    return DepthConfig(scenes=names, **shared, **tiny)


def with_random_weights(kind: Callable[..., Model], config: Any) -> Model:
    """A task model in eval mode, filled in one pass: diffusers' own draw takes a minute at Stable Diffusion's size.

    Args:
        kind: The model's class.
        config: Its configuration.
    """
    with torch.device("meta"):
        backbone = StableDiffusionBackbone.from_config(config.backbone)
        model = kind(config.model_copy(update={"backbone": backbone.config}), backbone=backbone)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            else:
                value.fill_(float(name.endswith(("weight", "running_var"))))
    return model.eval()


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
