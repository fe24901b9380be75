"""`pretrain.py diffusion`: from scenes to a small diffusion model of the world, or to one of its controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from experiments.autoencoder import load_autoencoder
from experiments.diffusion_training import DiffusionRun, Objective, is_read, rate_at, train_diffusion
from experiments.gauges import GAP_SCENES, noise_errors, text_gap
from experiments.miniature import build_networks, noise_schedule, save_diffusion_folder
from experiments.run_state import refuse_other_runs, saving_steps
from experiments.scenes import SceneSet, empty_text
from vpd.errors import UsageError
from vpd.files.atomic import append_json_line, atomic_write, read_json_lines, writable_folder
from vpd.files.lock import only_run_in
from vpd.loading import find_device
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.training.signals import stop_request

CHECKPOINT, LOG = "diffusion-training.safetensors", "pretraining.jsonl"
SECONDS_BETWEEN_CHECKPOINTS = 120.0
STEPS, BATCH_SIZE = 1100, 256
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
    minutes: float
    stopped_by: int | None = None
    """Signal that ended the run before its time; it can be resumed."""
    noise_errors: dict[int, float] = field(default_factory=dict)
    """Timestep -> error on pictures that were not trained on, with their captions or, where there were none, without;
    not for `masked`."""
    text_gap: dict[int, float] = field(default_factory=dict)
    """Timestep -> how much more the noise error is with the captions of other pictures; for `text` only."""


def pretrain_diffusion(
    out: str | Path,
    scenes: str | Path,
    *,
    objective: Objective = "text",
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    on_step: Callable[[DiffusionRun, float], None] | None = None,
) -> DiffusionReport:
    """Train UNet and text encoder together on prepared scenes, and write a folder in diffusers' layout.

    A checkpoint is written every two minutes. SIGTERM and Ctrl-C end the run after the step, with a checkpoint. The log
    is `pretraining.jsonl` in the folder.

    Args:
        out: Folder to write.
        scenes: Folder with `train` and `val` scenes of `prepare_scenes`.
        objective: `text` for a text-to-image model; `unconditional` and `masked` for its controls.
        steps: Optimiser steps; on a CPU the same seed and steps give the same weights on the same machine. Where
            neither they nor seconds are given, as the run was begun that is gone on with, or `STEPS`.
        seconds: Instead: time to train; the number of steps comes from the speed of the first 80, and is in the log.
        batch_size: Pictures of a step.
        seed: Of weights and draws.
        resume: Go on from the checkpoint in `out`, if there is one.
        device: Where to train; `auto` takes a GPU if there is one.
        on_step: Called after each step with the run and the last loss that was read.

    Raises:
        UsageError: If a number does not fit, there are no scenes, or `out` holds another run, or one that has done
            more steps.
    """
    if (steps is not None and (steps < 1 or seconds is not None)) or (seconds is not None and seconds <= 0):
        raise UsageError(f"steps={steps}, seconds={seconds}: give one of them, and more than 0.")
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: it must be more than 0.")
    folder = writable_folder(out)
    checkpoint = folder / CHECKPOINT
    refuse_other_runs(checkpoint, result=folder / "unet" / SAFETENSORS_WEIGHTS_NAME, resume=resume)
    where = torch.device(find_device(device))
    data, unseen = (SceneSet.read(scenes, split, device=where) for split in ("train", "val"))
    run = new_run(
        objective, seed=seed, data=f"{data.mark}, {batch_size} a step", size_px=data.size_px, device=str(where)
    )
    if checkpoint.is_file():
        run.restore(checkpoint)
    _set_length(run, steps, seconds, folder)
    with only_run_in(folder), stop_request() as stop:
        log = _Log(folder / LOG, run)
        log.write(data=run.data, objective=objective, seed=seed, device=where.type, steps_before=run.step)

        def tell(run: DiffusionRun, loss: float) -> None:
            log.step(run, loss)
            if on_step:
                on_step(run, loss)

        go_on = saving_steps(checkpoint, stop, every_s=SECONDS_BETWEEN_CHECKPOINTS, on_step=tell)
        train_diffusion(run, data, batch_size=batch_size, go_on=go_on)
    run.save(checkpoint)  # also at the end: what is left may still be interrupted
    if stop.signal is not None and run.step != run.limit:
        return DiffusionReport(folder, run.step, run.seconds / 60, stop.signal)
    errors, gaps = _measure(run, unseen)
    log.write(trained=run.step, pictures=run.step * batch_size, noise_errors=errors, text_gap=gaps)
    save_diffusion_folder(
        folder, vae=load_autoencoder(None), unet=run.unet.cpu(), text_encoder=run.text_encoder.cpu().model
    )
    checkpoint.unlink(missing_ok=True)
    return DiffusionReport(folder, run.step, run.seconds / 60, None, errors, gaps)


def _set_length(run: DiffusionRun, steps: int | None, seconds: float | None, folder: Path) -> None:
    """Say how long a run is to be; what is not given stays as it was begun.

    Raises:
        UsageError: If it has done more.
    """
    if steps is not None and run.step > steps:
        raise UsageError(
            f"The run in {folder} has done {run.step} steps, more than steps={steps}. Give more, or none to go on as "
            "it was begun."
        )
    if steps is not None or seconds is not None:
        run.limit, run.budget_s = steps, seconds
    elif run.limit is None and run.budget_s is None:
        run.limit = STEPS


def _measure(run: DiffusionRun, unseen: SceneSet) -> tuple[dict[int, float], dict[int, float]]:
    """Noise errors and text gaps of a trained model, as far as its objective has them."""
    networks = run.unet, run.text_encoder, run.scheduler
    if run.objective == "text":
        return text_gap(*networks, unseen)
    if run.objective == "masked":
        return {}, {}
    latents = unseen.latents[:GAP_SCENES, 0]
    return noise_errors(*networks, latents, empty_text(len(latents), device=latents.device)), {}


class _Log:
    """The lines of a run; those of steps that a crash undid are taken back.

    Args:
        path: The file.
        run: As it goes on now.
    """

    def __init__(self, path: Path, run: DiffusionRun) -> None:
        self.path = path
        kept = [line for line in read_json_lines(path) if run.step and line.get("step", 0) <= run.step]
        with atomic_write(path) as temporary:
            temporary.touch()
        append_json_line(path, *kept)

    def write(self, **values: Any) -> None:
        """Add a line."""
        append_json_line(self.path, values)

    def step(self, run: DiffusionRun, loss: float) -> None:
        """Add a line for a step whose loss was read."""
        if is_read(run):
            rate = rate_at(run.step - 1, run.limit)
            self.write(step=run.step, of=run.limit, loss=loss, rate=rate, seconds=round(run.seconds, 2))


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
