"""What a small autoencoder learns on images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from experiments.autoencoder import autoencoder_loss
from experiments.image_training import ImageRun


@dataclass
class AutoencoderRun(ImageRun):
    """An autoencoder that learns to give pictures back."""

    network: AutoencoderKL
    part: ClassVar[str] = "vae"

    def loss(self, images: Tensor) -> Tensor:
        """Of reconstruction, from latents with the noise of this step."""
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        return autoencoder_loss(self.network, images, noise)
