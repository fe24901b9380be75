"""Training of a small diffusion model on prepared latents, and of its controls: resumable, a function of the seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from experiments.latents import LatentSet
from experiments.run_state import all_weights, restore_run, save_run
from vpd.loading import has_fast_bf16
from vpd.prompts.encoder import TextEncoder
from vpd.training.muon import Muon

Objective = Literal["text", "unconditional", "masked"]
"""What a UNet learns: noise given captions; noise alone; latents that were masked (no diffusion at all)."""
SHORT_SHARE, EMPTY_SHARE = 0.3, 0.1
"""Captions that speak of a part of the picture, and that are left out, so that samples can be guided."""
MOST_WEIGHT = 8.0
"""Of a noise error, which otherwise weighs 1 / alpha_bar: the steps at which words decide would hardly count."""
MASKED_SHARE, MASK_PATCH = 0.6, 2
"""Of the latents, in patches of so many a side."""
MASKED_TIMESTEP = 1
"""At which masked latents are read: the one at which features are taken later."""
WARMUP_STEPS = 100
DECAY_SHARE = 0.25
"""Of the steps, at the end, in which the rate falls to zero; before that, a run does not know how long it will be."""


@dataclass
class DiffusionRun:
    """A diffusion model in training and how far it is."""

    unet: UNet2DConditionModel
    text_encoder: TextEncoder
    scheduler: DDIMScheduler
    objective: Objective = "text"
    seed: int = 0
    data: str = ""
    """What it is trained on; a checkpoint of other data is not taken."""
    step: int = 0
    seconds: float = 0.0
    """CPU time spent on steps."""
    limit: int | None = None
    """Steps in all that it was last trained for; a checkpoint keeps it."""
    optimiser: Muon = field(init=False)

    def __post_init__(self) -> None:
        self.unet.set_attn_processor(AttnProcessor())  # fused attention's backward pass is slow in bfloat16 on CPUs
        self.text_encoder.model.set_attn_implementation("eager")
        self.text_encoder.requires_grad_(True)
        device = next(self.unet.parameters()).device
        both = torch.nn.ModuleList([self.unet, self.text_encoder])
        self.optimiser = Muon(all_weights(both), bf16=has_fast_bf16(device))

    def save(self, path: str | Path) -> None:
        """Write weights, optimiser state and progress to one file, atomically."""
        progress = {"step": self.step, "seconds": self.seconds, "limit": self.limit, **self._identity()}
        save_run(path, self._models(), self.optimiser, progress)

    def restore(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            UsageError: If the file is damaged or belongs to another run.
        """
        progress = restore_run(path, self._models(), self.optimiser, self._identity())
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])
        self.limit = progress.get("limit")

    def _models(self) -> dict[str, torch.nn.Module]:
        return {"unet": self.unet, "text": self.text_encoder.model}

    def _identity(self) -> dict[str, object]:
        return {"seed": self.seed, "data": self.data, "objective": self.objective}


def train_diffusion(
    run: DiffusionRun,
    data: LatentSet,
    *,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    go_on: Callable[[DiffusionRun, float], bool] | None = None,
) -> None:
    """Train until `steps` are done, counted from the run's beginning.

    Everything random in a step is a function of seed and step. The rate warms up, stays, and falls to zero over the
    last quarter: while it stays, `steps` may still be changed without any other effect.

    Args:
        run: What to train; changed in place.
        data: Latents and captions.
        steps: Steps in all.
        batch_size: Pictures of a step.
        learning_rate: Peak rate.
        go_on: Called after each step with the run and the loss; false ends the training there.
    """
    device = next(run.unet.parameters()).device
    alpha_bars, use_bf16 = run.scheduler.alphas_cumprod.to(device), has_fast_bf16(device)
    run.unet.train()
    run.limit = steps
    while run.step < steps:
        begin = time.process_time()
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate * rate_at(run.step, steps)
        rng = np.random.default_rng((run.seed, run.step))
        latents, texts = data.draw(rng, batch_size, short=SHORT_SHARE, empty=EMPTY_SHARE)
        texts = texts if run.objective == "text" else [""] * batch_size
        noise = torch.Generator().manual_seed(run.seed * 1_000_003 + run.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            embeds = embed_texts(run.text_encoder, texts)
            if run.objective == "masked":
                loss = masked_loss(run.unet, latents.to(device), embeds, noise)
            else:
                loss = noise_loss(run.unet, latents.to(device), embeds, alpha_bars, noise).mean()
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for model in run._models().values():
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        run.seconds += time.process_time() - begin
        if go_on and not go_on(run, float(loss.detach())):
            break
    run.unet.eval()


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate at a step."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / max(1.0, DECAY_SHARE * steps))


def embed_texts(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """Token embeddings `(b, k, d)`, of which `k` is the longest text's; with a gradient, unlike `encoder.tokens`."""
    limit = encoder.model.config.max_position_embeddings
    ids = encoder.tokenizer(texts, padding="longest", truncation=True, max_length=limit, return_tensors="pt").input_ids
    return encoder.model(ids.to(encoder.model.device)).last_hidden_state


def noise_loss(
    unet: UNet2DConditionModel,
    latents: Tensor,
    text_embeds: Tensor,
    alpha_bars: Tensor,
    generator: torch.Generator,
    timesteps: Tensor | None = None,
) -> Tensor:
    """Squared error of the predicted noise, weighted by `min(8, 1 / alpha_bar)`.

    Args:
        unet: The network.
        latents: `(b, c, h, w)`, scaled.
        text_embeds: `(b, k, d)`.
        alpha_bars: Of the schedule, one a timestep.
        generator: Draws noise and timesteps, on the CPU.
        timesteps: `(b,)`; none = evenly spread over the schedule, from a random start.

    Returns:
        `(b,)`.
    """
    count = len(latents)
    if timesteps is None:
        spread = (torch.arange(count) + torch.rand((), generator=generator) * count) / count % 1
        timesteps = (spread * len(alpha_bars)).long()
    timesteps = timesteps.to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    alpha_bar = alpha_bars[timesteps][:, None, None, None]
    noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
    predicted = unet(noisy, timesteps, text_embeds).sample.float()
    return (predicted - noise).square().mean(dim=(1, 2, 3)) * (1 / alpha_bar[:, 0, 0, 0]).clamp(max=MOST_WEIGHT)


def masked_loss(unet: UNet2DConditionModel, latents: Tensor, text_embeds: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of latents that were replaced by zeros, from those around them.

    Args:
        unet: The network, used as an autoencoder.
        latents: `(b, c, h, w)`, scaled; h and w multiples of `MASK_PATCH`.
        text_embeds: `(b, k, d)`.
        generator: Draws the patches, on the CPU.

    Returns:
        Scalar.

    Source: Xie et al. 2022, SimMIM (https://arxiv.org/abs/2111.09886), with patches of latents.
    """
    count, _, height, width = latents.shape
    hidden = torch.rand((count, 1, height // MASK_PATCH, width // MASK_PATCH), generator=generator) < MASKED_SHARE
    mask = hidden.to(latents).repeat_interleave(MASK_PATCH, dim=2).repeat_interleave(MASK_PATCH, dim=3)
    timesteps = torch.full((count,), MASKED_TIMESTEP, device=latents.device)
    predicted = unet(latents * (1 - mask), timesteps, text_embeds).sample.float()
    error = (predicted - latents).square().mean(dim=1, keepdim=True)
    return (error * mask).sum() / mask.sum().clamp(min=1)
