"""`vpd pretrain diffusion`: from nothing to a small diffusion model of the world, or to one of its controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from experiments.autoencoder import load_autoencoder
from experiments.diffusion_training import DiffusionRun, Objective, train_diffusion
from experiments.gauges import text_gap
from experiments.latents import SCENES_PER_SHARD, LatentSet, prepare_latents
from experiments.miniature import build_networks, noise_schedule, save_diffusion_folder
from experiments.run_state import refuse_other_runs, saving_steps
from vpd.errors import UsageError
from vpd.files.atomic import writable_folder
from vpd.files.lock import only_run_in
from vpd.loading import find_device
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.training.signals import stop_request
from vpd.world.dataset import split_seed

CHECKPOINT = "diffusion-training.safetensors"
SECONDS_BETWEEN_CHECKPOINTS = 120.0
SCENES, STEPS, BATCH_SIZE, SIZE_PX = 40_000, 1100, 96, 64
"""Of the shipped model."""
NETWORKS = {
    "unet_channels": (32, 64, 128, 128),
    "unet_heads": (1, 2, 4, 4),
    "layers_per_block": 2,
    "text_dim": 128,
    "text_layers": 3,
    "heads": 4,
}
"""Of the shipped model; few heads at the finest level, where attention costs most."""


@dataclass(frozen=True)
class DiffusionReport:
    """What a training run came to."""

    folder: Path
    steps: int
    cpu_minutes: float
    stopped_by: int | None = None
    """Signal that ended the run before its time; it can be resumed."""
    text_gap: dict[int, float] = field(default_factory=dict)
    """Timestep -> how much more the noise error is with the captions of other pictures; for `text` only."""


def pretrain_diffusion(
    out: str | Path,
    *,
    objective: Objective = "text",
    latents: str | Path | None = None,
    scenes: int = SCENES,
    steps: int | None = None,
    batch_size: int = BATCH_SIZE,
    size_px: int = SIZE_PX,
    seed: int = 0,
    workers: int = 2,
    resume: bool = False,
    device: str = "auto",
    on_shard: Callable[[int, int], None] | None = None,
    on_step: Callable[[DiffusionRun, float], None] | None = None,
) -> DiffusionReport:
    """Render and encode scenes, train UNet and text encoder together, and write a folder in diffusers' layout.

    A checkpoint is written every two minutes. SIGTERM and Ctrl-C end the run after the step, with a checkpoint.

    Args:
        out: Folder to write.
        objective: `text` for a text-to-image model; `unconditional` and `masked` for its controls.
        latents: Folder of prepared latents, which several runs may share; none = `latents` in `out`.
        scenes: Scenes to train on, a multiple of 1,000.
        steps: Optimiser steps; the same seed and steps give the same weights on the same machine. Where not given,
            those of the run that is gone on with, or `STEPS`.
        batch_size: Pictures of a step.
        size_px: Side of the pictures, pixels, a multiple of 32.
        seed: Of weights, scenes and draws.
        workers: Processes that render.
        resume: Go on from the checkpoint in `out`, if there is one.
        device: Where to train; `auto` takes a GPU if there is one.
        on_shard: Called with the shards that are rendered and their number.
        on_step: Called after each step with the run and its loss.

    Raises:
        UsageError: If a number does not fit, or `out` holds another run, or one that has done more steps.
    """
    if size_px < 32 or size_px % 32:
        raise UsageError(f"Pictures of {size_px} px: give a multiple of 32.")
    if (steps is not None and steps < 1) or batch_size < 1:
        raise UsageError(f"steps={steps}, batch_size={batch_size}: both must be more than 0.")
    folder = writable_folder(out)
    checkpoint = folder / CHECKPOINT
    refuse_other_runs(checkpoint, result=folder / "unet" / SAFETENSORS_WEIGHTS_NAME, resume=resume)
    data = f"{scenes} scenes at {size_px} px, {batch_size} a step"
    run = new_run(objective, seed=seed, data=data, size_px=size_px, device=device)
    if checkpoint.is_file():
        run.restore(checkpoint)
    steps = steps or run.limit or STEPS
    if run.step > steps:
        raise UsageError(
            f"The run in {folder} has done {run.step} steps, more than steps={steps}. Give more, or none to go on as "
            "it was begun."
        )
    store = Path(latents) if latents else folder / "latents"
    shards = prepare_latents(
        store, scenes=scenes, seed=split_seed(seed, "train"), size_px=size_px, workers=workers, on_shard=on_shard
    )
    with only_run_in(folder), stop_request() as stop:
        go_on = saving_steps(checkpoint, stop, every_s=SECONDS_BETWEEN_CHECKPOINTS, on_step=on_step)
        train_diffusion(run, LatentSet(shards), steps=steps, batch_size=batch_size, go_on=go_on)
    run.save(checkpoint)  # also at the end: what is left may still be interrupted
    minutes = run.seconds / 60
    if stop.signal is not None and run.step < steps:
        return DiffusionReport(folder, run.step, minutes, stop.signal)
    unet, encoder = run.unet.cpu(), run.text_encoder.cpu()
    gaps = {}
    if objective == "text":
        seen = prepare_latents(store, scenes=SCENES_PER_SHARD, seed=split_seed(seed, "val"), size_px=size_px)
        gaps = text_gap(unet, encoder, run.scheduler, LatentSet(seen))
    save_diffusion_folder(folder, vae=load_autoencoder(None), unet=unet, text_encoder=encoder.model)
    checkpoint.unlink(missing_ok=True)
    return DiffusionReport(folder, run.step, minutes, None, gaps)


def new_run(objective: Objective, *, seed: int, data: str, size_px: int, device: str = "cpu") -> DiffusionRun:
    """A run before its first step, with the shipped model's architecture."""
    vae = load_autoencoder(None)
    latent_stride = 2 ** (len(vae.config["block_out_channels"]) - 1)
    unet, text_model = build_networks(
        **NETWORKS,  # type: ignore[arg-type]
        latent_channels=int(vae.config["latent_channels"]),
        latent_side=size_px // latent_stride,
        seed=seed,
    )
    encoder = TextEncoder(text_model, clip_tokenizer())
    where = torch.device(find_device(device))
    return DiffusionRun(unet.to(where), encoder.to(where), noise_schedule(), objective, seed=seed, data=data)
