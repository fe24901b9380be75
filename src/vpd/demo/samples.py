"""Pictures that the shipped text-to-image model makes of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from vpd.files.images import to_pixels
from vpd.prompts.encoder import TextEncoder
from vpd.weights.shipped import shipped_diffusion
from vpd.weights.sources import load_vae


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel,
    encoder: TextEncoder,
    scheduler: DDIMScheduler,
    texts: Sequence[str],
    *,
    steps: int = 30,
    guidance: float = 4.0,
    side: int = 16,
    seed: int = 0,
) -> Tensor:
    """Latents `(b, c, side, side)` made from noise for each text, by DDIM with classifier-free guidance.

    Args:
        unet: The whole network.
        encoder: Its text encoder.
        scheduler: The noise schedule it was trained with.
        texts: What to make.
        steps: Denoising steps.
        guidance: How much the text counts; 1 = as trained.
        side: Of the latents.
        seed: Of the noise.

    Source: Song et al. 2021 (https://arxiv.org/abs/2010.02502); Ho and Salimans 2022
    (https://arxiv.org/abs/2207.12598).
    """
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((len(texts), unet.config.in_channels, side, side), generator=generator)
    embeds = embed_padded(encoder, [*texts, *([""] * len(texts))])
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        both = unet(torch.cat([latents, latents]), timestep, embeds).sample
        with_text, without = both.chunk(2)
        latents = scheduler.step(without + guidance * (with_text - without), timestep, latents).prev_sample
    return latents


def draw_samples(texts: Sequence[str], *, seed: int = 0) -> list[NDArray[np.uint8]]:
    """RGB pictures that the shipped model makes of texts, of the size that it was trained at; `seed` is the noise's."""
    folder = shipped_diffusion()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    encoder, side = TextEncoder.from_pretrained(folder), unet.config.sample_size
    latents = sample_latents(unet, encoder, noise_schedule(), texts, guidance=3.0, side=side, seed=seed)
    return to_pictures(load_vae(folder), latents)


@torch.no_grad()
def to_pictures(vae: AutoencoderKL, latents: Tensor) -> list[NDArray[np.uint8]]:
    """Decode scaled latents to RGB pictures `(H, W, 3)`."""
    return list(to_pixels(vae.decode(latents / vae.config.scaling_factor).sample))


def embed_padded(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Token embeddings of the full length, so that batches fit together."""
    return encoder.tokens(list(texts), length=encoder.model.config.max_position_embeddings)
