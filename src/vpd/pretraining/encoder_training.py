"""What a small encoder learns on images: the latents that a VAE makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from vpd.backbones.tiny_encoder import TinyEncoder
from vpd.backbones.vae_walk import encode_mode, scale_latents
from vpd.pretraining.image_training import ImageRun


@dataclass
class EncoderRun(ImageRun):
    """A small encoder that learns to make a VAE's latents."""

    network: TinyEncoder
    part: ClassVar[str] = "encoder"
    learning_rate: ClassVar[float] = 1e-3  # without norms, what is right for the VAE makes the loss leap
    teacher: AutoencoderKL = field(kw_only=True)
    """The VAE; its decoder is not used."""
    model: str = field(default="", kw_only=True)
    """Whose VAE it is; a checkpoint of another model's is not taken."""

    def loss(self, images: Tensor) -> Tensor:
        """Squared error of the latents over their square: 1 = as far off as zeros."""
        with torch.autocast(images.device.type, enabled=False):  # the teacher is not to be rounded
            wanted = wanted_latents(self.teacher, images)
        return (self.network(images).float() - wanted).square().sum() / wanted.square().sum()

    def identity(self) -> dict[str, object]:
        """As for every run, and whose VAE it is."""
        return {**super().identity(), "model": self.model}


def wanted_latents(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The mode of the VAE's latents times its factor, float32; no gradient."""
    return scale_latents(vae, encode_mode(vae, images).float())


@torch.no_grad()
def latent_error(encoder: TinyEncoder, vae: AutoencoderKL, pictures: Sequence[Tensor]) -> float:
    """Relative L2 error of a small encoder's latents over all pictures; 1 = as far off as zeros.

    Args:
        encoder: In eval mode.
        vae: Whose latents are wanted.
        pictures: Each `(b, 3, H, W)` in [-1, 1]; at least one.
    """
    wanted = [wanted_latents(vae, images) for images in pictures]
    errors = [(encoder(images) - latents).square().sum() for images, latents in zip(pictures, wanted, strict=True)]
    return float(
        torch.stack(errors).sum().sqrt() / torch.stack([latents.square().sum() for latents in wanted]).sum().sqrt()
    )
