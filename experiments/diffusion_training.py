"""Training of a small diffusion model on prepared scenes, and of its controls: resumable, a function of the seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from experiments.run_state import all_weights, restore_run, save_run
from experiments.scenes import SceneSet, empty_text
from vpd.loading import has_fast_bf16
from vpd.prompts.encoder import TextEncoder
from vpd.training.muon import Muon

Objective = Literal["text", "unconditional", "masked"]
"""What a UNet learns: noise given captions; noise alone; latents that were masked (no diffusion at all)."""
LONG_STEP = {"short": 0.25, "empty": 0.1}
"""Shares of short captions and of none in most steps; without texts that are left out samples could not be guided."""
SHORT_STEP = {"short": 1.0, "empty": 0.145}
"""The same in every `SHORT_EVERY`-th step, which reads no more tokens than the longest short caption has, so that short
contexts are known too."""
SHORT_EVERY = 4
MOST_WEIGHT = 8.0
"""Of a noise error, which otherwise weighs 1 / alpha_bar: the steps at which words decide would hardly count."""
MASKED_SHARE, MASK_PATCH = 0.6, 2
"""Of the latents, in patches of so many a side."""
MASKED_TIMESTEP = 1
"""At which masked latents are read: the one at which features are taken later."""
WARMUP_STEPS = 150
DECAY_SHARE = 0.4
"""Of the steps, at the end, in which the rate falls to zero; before that, a run does not know how long it will be."""
READ_EVERY = 25
"""Steps; losses between are not read, as reading one waits for the device."""
SETTLING_STEPS, TIMED_STEPS = 20, 60
"""Of a run that is given seconds: after the first ones so many are timed, which says how many steps there will be."""
SPARE_SHARE, LEAST_STEPS = 0.04, 20
"""Of the seconds that are left then, kept for what is not foreseen; and how many steps follow at least."""


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
    """Time spent on steps."""
    limit: int | None = None
    """Steps in all that it was last trained for; none = not known yet. A checkpoint keeps it."""
    budget_s: float | None = None
    """Seconds in all, from which the limit will come. A checkpoint keeps it."""
    optimiser: Muon = field(init=False)

    def __post_init__(self) -> None:
        device = next(self.unet.parameters()).device
        if device.type == "cpu":  # fused attention's backward pass is slow in bfloat16 on CPUs
            self.unet.set_attn_processor(AttnProcessor())
            self.text_encoder.model.set_attn_implementation("eager")
        else:
            self.unet.set_attn_processor(AttnProcessor2_0())
            self.unet.to(memory_format=torch.channels_last)
        self.text_encoder.requires_grad_(True)
        both = torch.nn.ModuleList([self.unet, self.text_encoder])
        self.optimiser = Muon(all_weights(both), bf16=has_fast_bf16(device))

    def save(self, path: str | Path) -> None:
        """Write weights, optimiser state and progress to one file, atomically."""
        done = {"step": self.step, "seconds": self.seconds, "limit": self.limit, "budget_s": self.budget_s}
        save_run(path, self._models(), self.optimiser, {**done, **self._identity()})

    def restore(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            UsageError: If the file is damaged or belongs to another run.
        """
        progress = restore_run(path, self._models(), self.optimiser, self._identity())
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])
        self.limit, self.budget_s = progress.get("limit"), progress.get("budget_s")

    def _models(self) -> dict[str, torch.nn.Module]:
        return {"unet": self.unet, "text": self.text_encoder.model}

    def _identity(self) -> dict[str, object]:
        return {"seed": self.seed, "data": self.data, "objective": self.objective}


def train_diffusion(
    run: DiffusionRun,
    data: SceneSet,
    *,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    go_on: Callable[[DiffusionRun, float], bool] | None = None,
) -> None:
    """Train until `run.limit` steps are done, counted from the run's beginning, or for about `run.budget_s` seconds.

    Everything random in a step is a function of seed, step and kind of device, and the pictures and their noise are the
    same for all objectives. The rate warms up, stays, and falls to zero over the last part: while it stays, the limit
    may still be changed without any other effect.

    Args:
        run: What to train; changed in place.
        data: Scenes, on the run's device.
        batch_size: Pictures of a step.
        learning_rate: Peak rate.
        go_on: Called after each step with the run and the last loss that was read; false ends the training there.

    Raises:
        ValueError: If the run has neither a limit nor a budget.
    """
    if run.limit is None and run.budget_s is None:
        raise ValueError("Neither limit nor budget_s: say how long to train.")
    device = next(run.unet.parameters()).device
    lengths = data.longest(slice(None)), data.longest(slice(1, None))
    run.unet.train()
    loss, speed = float("nan"), _Speed(run.step)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        while run.limit is None or run.step < run.limit:
            begin = time.perf_counter()
            for group in run.optimiser.param_groups:
                group["lr"] = learning_rate * rate_at(run.step, run.limit)
            generator = torch.Generator(device).manual_seed(run.seed * 1_000_003 + run.step)
            is_short = run.step % SHORT_EVERY == SHORT_EVERY - 1
            shares, length = (SHORT_STEP, lengths[1]) if is_short else (LONG_STEP, lengths[0])
            latents, tokens = data.draw(generator, batch_size, length=length, **shares)
            error = _move(run, latents, tokens, generator)
            run.step += 1
            if run.limit is None:
                run.limit = speed.limit(run, device)
            if is_read(run):
                loss = float(error)
            run.seconds += time.perf_counter() - begin
            if go_on and not go_on(run, loss):
                break
    run.unet.eval()


def _move(run: DiffusionRun, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """One step of the optimiser; returns the loss, a scalar."""
    device = latents.device
    if run.objective != "text":
        tokens = empty_text(len(latents), device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device)):
        embeds = run.text_encoder.model(tokens).last_hidden_state
        if run.objective == "masked":
            loss = masked_loss(run.unet, latents, embeds, generator)
        else:
            loss = noise_loss(run.unet, latents, embeds, run.scheduler.alphas_cumprod.to(device), generator).mean()
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for model in run._models().values():
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    run.optimiser.step()
    return loss.detach()


def is_read(run: DiffusionRun) -> bool:
    """Whether the loss of the step just done is read."""
    return run.step % READ_EVERY == 0 or run.step in (1, run.limit)


class _Speed:
    """Finds the number of steps that fit into a run's seconds, from the speed of some of its steps."""

    def __init__(self, first: int) -> None:
        self.first, self.began_s = first, 0.0

    def limit(self, run: DiffusionRun, device: torch.device) -> int | None:
        """Steps in all; none = not known yet. Called after each step, before its time is counted."""
        assert run.budget_s is not None
        done = run.step - self.first
        if done not in (SETTLING_STEPS, SETTLING_STEPS + TIMED_STEPS):
            return None
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        now_s = time.perf_counter()
        if done == SETTLING_STEPS:
            self.began_s = now_s
            return None
        step_s = (now_s - self.began_s) / TIMED_STEPS
        left_s = (run.budget_s - run.seconds) * (1 - SPARE_SHARE)
        return run.step + max(LEAST_STEPS, int(left_s / step_s))


def rate_at(step: int, steps: int | None) -> float:
    """Share of the peak rate at a step of so many; none = not known yet."""
    left = 1.0 if steps is None else (steps - step) / max(1.0, DECAY_SHARE * steps)
    return min(1.0, (step + 1) / WARMUP_STEPS, left)


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
        generator: Draws noise and timesteps.
        timesteps: `(b,)`; none = evenly spread over the schedule, from a random start.

    Returns:
        `(b,)`.
    """
    count = len(latents)
    if timesteps is None:
        start = torch.rand((), generator=generator, device=generator.device)
        spread = (torch.arange(count, device=generator.device) + start * count) / count % 1
        timesteps = (spread * len(alpha_bars)).long()
    timesteps = timesteps.to(latents.device)
    noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents.device)
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
        generator: Draws the patches.

    Returns:
        Scalar.

    Source: Xie et al. 2022, SimMIM (https://arxiv.org/abs/2111.09886), with patches of latents.
    """
    count, _, height, width = latents.shape
    patches = (count, 1, height // MASK_PATCH, width // MASK_PATCH)
    hidden = torch.rand(patches, generator=generator, device=generator.device) < MASKED_SHARE
    mask = hidden.to(latents).repeat_interleave(MASK_PATCH, dim=2).repeat_interleave(MASK_PATCH, dim=3)
    timesteps = torch.full((count,), MASKED_TIMESTEP, device=latents.device)
    predicted = unet(latents * (1 - mask), timesteps, text_embeds).sample.float()
    error = (predicted - latents).square().mean(dim=1, keepdim=True)
    return (error * mask).sum() / mask.sum().clamp(min=1)
