"""Models with random weights, for time and memory alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import BackboneConfig, Fit, SegmentConfig
from vpd.tasks.model import PerceptionModel
from vpd.tasks.segmentation import SegmentationModel

Model = TypeVar("Model", bound=PerceptionModel)

SD15: dict[str, dict[str, Any]] = {
    "unet": {
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    },
    "vae": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "sample_size": 512,
    },
}
"""Arguments of diffusers' UNet and autoencoder that make those of Stable Diffusion 1.5."""


def random_sd15(num_classes: int = 150) -> SegmentationModel:
    """A segmentation model of Stable Diffusion 1.5's size, 512 px, with random weights and prompts.

    Args:
        num_classes: Classes that it tells apart, at most 255.
    """
    names = tuple(f"class {number}" for number in range(num_classes))
    config = SegmentConfig(classes=names, backbone=BackboneConfig(**SD15), fit=Fit())
    return with_random_weights(SegmentationModel, config)


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
