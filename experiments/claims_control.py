"""The control of the claims as a diffusion folder: its UNet, and a text encoder for the one text that it read.

What the control's own text encoder made of the empty text was not kept. One vector of its place is found again by the
control's own loss on scenes of its pre-training, its UNet left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel

from experiments.autoencoder import load_autoencoder
from experiments.diffusion import new_run
from experiments.miniature import END_TOKEN, START_TOKEN, noise_schedule, save_diffusion_folder
from vpd.backbones.vae_walk import encode_mode, scale_latents
from vpd.errors import UsageError
from vpd.model_folder import results_folder
from vpd.pretraining.pictures import to_batch
from vpd.world.dataset import Split, WorldSamples

SCENES, CHECKED = 64, 32
"""To learn from, of the train split; to measure on, of the val split."""
BATCH = 16
RATE = 3e-3
TIMES = (100, 400, 700)


def write_control(folder: Path, parts: Sequence[Path], *, steps: int, size_px: int) -> None:
    """Put the parts of a UNet's weights together, and find its empty text.

    Raises:
        UsageError: If the parts are not all of such a UNet, or the folder holds a model.
    """
    folder = results_folder(folder)
    begun = new_run("unconditional", seed=0, data="", size_px=size_px)
    unet, encoder = begun.unet, begun.text_encoder.model
    try:
        weights = {name: value.float() for part in parts for name, value in load_file(part).items()}
        unet.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UsageError(f"{', '.join(map(str, parts))}: not the weights of such a UNet: {error}") from error
    latents, unseen = _latents("train", SCENES, size_px), _latents("val", CHECKED, size_px)
    before = noise_errors(unet, encoder, unseen)
    find_empty_text(unet, encoder, latents, steps=steps)
    after = noise_errors(unet, encoder, unseen)
    save_diffusion_folder(folder, vae=load_autoencoder(None), unet=unet, text_encoder=encoder)
    for timestep, old, new in zip(TIMES, before, after, strict=True):
        print(f"Noise error at t = {timestep}: {old:.4f} before, {new:.4f} after.")
    print(f"Written: {folder}. Use it: --backbone unconditional={folder}")


def find_empty_text(unet: UNet2DConditionModel, encoder: CLIPTextModel, latents: Tensor, *, steps: int) -> None:
    """Let a text encoder learn what a UNet wants to read where there is no text.

    Args:
        unet: Is not changed.
        encoder: Learns, in place.
        latents: `(n, c, h, w)`, scaled.
        steps: Of `BATCH` latents each.
    """
    unet.requires_grad_(False).eval()
    optimiser = torch.optim.Adam(encoder.requires_grad_(True).parameters(), lr=RATE)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / steps))
        chosen = latents[rng.choice(len(latents), BATCH)]
        times = ((torch.arange(BATCH) + torch.rand((), generator=generator)) * 1000 / BATCH).long()
        noise = torch.randn(chosen.shape, generator=generator)
        optimiser.zero_grad()
        _noise_loss(unet, _empty(encoder), chosen, times, noise).mean().backward()
        optimiser.step()
    encoder.requires_grad_(False)


@torch.no_grad()
def noise_errors(unet: UNet2DConditionModel, encoder: CLIPTextModel, latents: Tensor) -> list[float]:
    """Mean squared error of the noise at `TIMES`, the same noise at each call."""
    errors = []
    for timestep in TIMES:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep))
        times = torch.full((len(latents),), timestep)
        errors.append(float(_noise_loss(unet, _empty(encoder), latents, times, noise).mean()))
    return errors


def _empty(encoder: CLIPTextModel) -> Tensor:
    """`(1, 1, d)`: what prompts of names read in the place of a name."""
    pooled: Tensor = encoder(torch.tensor([[START_TOKEN, END_TOKEN]])).pooler_output
    return pooled[:, None]


def _noise_loss(unet: UNet2DConditionModel, context: Tensor, latents: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    alpha_bars = noise_schedule().alphas_cumprod[times][:, None, None, None]
    noisy = alpha_bars.sqrt() * latents + (1 - alpha_bars).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        found = unet(noisy, times, context.expand(len(latents), -1, -1)).sample
    return (found.float() - noise).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def _latents(split: Split, count: int, size_px: int) -> Tensor:
    vae, samples = load_autoencoder(None), WorldSamples("segment", split, count, size_px)
    images = (to_batch([samples[index].image]) for index in range(count))
    return torch.cat([scale_latents(vae, encode_mode(vae, image)) for image in images])
