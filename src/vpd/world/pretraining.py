"""`vpd pretrain vae`: from a folder of images, or the world, to a small diffusion folder with a trained VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from vpd.errors import UsageError
from vpd.files import writable_folder
from vpd.image_search import search_images
from vpd.loading import find_device
from vpd.training.folder_lock import only_run_in
from vpd.training.stopping import stop_request
from vpd.world.autoencoder import build_autoencoder, measured_scaling, normalise_latents, reconstruct
from vpd.world.crops import middle_crop, photo_batches, read_small, to_batch, world_batches
from vpd.world.dataset import split_seed
from vpd.world.measures import measure_autoencoder, psnr
from vpd.world.miniature import write_diffusion_folder
from vpd.world.render import render
from vpd.world.run_state import refuse_unfinished, saving_steps
from vpd.world.sampling import sample_scene
from vpd.world.shipped import WORLD
from vpd.world.vae_training import AutoencoderRun, train_autoencoder

CHANNELS = {4: (32, 64, 64), 8: (16, 32, 64, 64)}
"""Stride -> widths of the autoencoder's levels."""
CHECKPOINT = "vae-training.safetensors"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
DEFAULT_MINUTES = 10.0
FINISHING_BATCHES = 32
"""Training batches on which latents are measured, each time."""
HELD_OUT = 16
"""Most pictures kept out of training to measure on."""


@dataclass(frozen=True)
class VaeReport:
    """What a training run came to."""

    folder: Path
    steps: int
    minutes: float
    stopped_by: int | None = None
    """Signal that ended the run before its time; it can be resumed."""
    psnr_db: float | None = None
    """On pictures that were not trained on."""
    hue: float | None = None
    """Share of objects that keep their hue; world only."""


def pretrain_vae(
    images: str | Path,
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    size_px: int = 128,
    stride_px: int = 4,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    on_step: Callable[[AutoencoderRun, float], None] | None = None,
) -> VaeReport:
    """Train a small VAE and write a complete miniature of Stable Diffusion around it.

    A checkpoint is written every minute. SIGTERM and Ctrl-C end the run after the step, with a checkpoint.

    Args:
        images: Folder of images, or `world`.
        out: Folder to write; gets `vae`, `unet`, `text_encoder`, `tokenizer`, `scheduler`, `model_index.json`.
        steps: Optimiser steps; the same seed and steps give the same weights on the same machine.
        minutes: Time; 10 where neither is given.
        size_px: Side of the crops, pixels, a multiple of 8.
        stride_px: Pixels to one latent: 4, or 8 as in Stable Diffusion, with less detail at a quarter of the cost.
        seed: Of weights and draws.
        resume: Go on from the checkpoint in `out`, if there is one.
        device: Where to train; `auto` takes a GPU if there is one.
        on_step: Called after each step with the run and its loss.

    Raises:
        UsageError: If there are no images, the size does not fit, or `out` holds an unfinished run.
    """
    if size_px < 16 or size_px % 8:
        raise UsageError(f"Crops of {size_px} px: give a multiple of 8 that is at least 16.")
    if stride_px not in CHANNELS:
        raise UsageError(f"stride {stride_px}: choose one of {', '.join(map(str, CHANNELS))} pixels.")
    if (steps is not None and steps < 1) or (minutes is not None and minutes <= 0):
        raise UsageError(f"steps={steps}, minutes={minutes}: both must be more than 0.")
    if steps is None and minutes is None:
        minutes = DEFAULT_MINUTES
    files = [] if str(images) == WORLD else _files(Path(images))
    held_out, files = _hold_out(files)
    vae = build_autoencoder(CHANNELS[stride_px], seed=seed).to(find_device(device))
    run = AutoencoderRun(vae, seed=seed, images=f"{images} at {size_px} px, stride {stride_px}")
    checkpoint = writable_folder(out) / CHECKPOINT
    refuse_unfinished(checkpoint, resume=resume)
    if checkpoint.is_file():
        run.restore(checkpoint)
    batches = _batches(files, size_px, seed, run.step)
    with only_run_in(Path(out)), stop_request() as stop:
        go_on = saving_steps(checkpoint, stop, every_s=SECONDS_BETWEEN_CHECKPOINTS, on_step=on_step)
        train_autoencoder(run, batches, steps=steps, minutes=minutes, go_on=go_on)
    if stop.signal is not None:
        run.save(checkpoint)
        return VaeReport(Path(out), run.step, run.seconds / 60, stop.signal)
    finish_vae(vae.cpu(), batches)
    quality = _quality_on_files(vae, held_out, size_px) if files else _quality_on_world(vae, size_px, seed)
    write_diffusion_folder(out, vae=vae, seed=seed)
    checkpoint.unlink(missing_ok=True)
    return VaeReport(Path(out), run.step, run.seconds / 60, None, quality.get("psnr_db"), quality.get("hue"))


def _files(folder: Path) -> list[Path]:
    """Image files in a folder and below it."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. Give a folder of images, or `{WORLD}` for rendered scenes.")
    return [Path(path) for path in search_images([str(folder)])]


def _hold_out(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Every tenth file, at most `HELD_OUT`, to measure on, and the others; a few files serve for both."""
    held_out = files[::10][:HELD_OUT]
    return held_out, [path for path in files if path not in held_out] or files


def _batches(files: list[Path], size_px: int, seed: int, start: int) -> Iterator[Tensor]:
    """Training batches from number `start` on."""
    if files:
        return photo_batches(files, size_px, seed=seed, start=start)
    sizes_px = (size_px // 16 * 8, size_px * 3 // 32 * 8, size_px, size_px)  # about 1/2, 3/4, 1 and 1
    return world_batches(sizes_px, seed=split_seed(seed, "train"), start=start)


def finish_vae(vae: AutoencoderKL, batches: Iterator[Tensor]) -> None:
    """Normalise the latents of a trained VAE and measure its scaling factor, on further batches."""
    normalise_latents(vae, islice(batches, FINISHING_BATCHES))
    factor = measured_scaling(vae, islice(batches, FINISHING_BATCHES))
    vae.register_to_config(scaling_factor=round(factor, 4))


def _quality_on_files(vae: AutoencoderKL, files: list[Path], size_px: int) -> dict[str, float]:
    """PSNR on the middles of photographs; nothing where none can be read."""
    photographs = [photograph for path in files if (photograph := read_small(path, 4 * size_px))]
    truth = [to_batch([middle_crop(photograph, size_px)]) for photograph in photographs]
    if not truth:
        return {}
    return {"psnr_db": psnr(torch.cat([reconstruct(vae, image) for image in truth]), torch.cat(truth))}


def _quality_on_world(vae: AutoencoderKL, size_px: int, seed: int) -> dict[str, float]:
    """PSNR and hue accuracy on scenes of the validation split."""
    world_seed = split_seed(seed, "val")
    return measure_autoencoder(vae, [render(sample_scene(world_seed, i), size_px) for i in range(HELD_OUT)])
