"""`vpd pretrain vae`: from a folder of images, or the world, to a small diffusion folder with a trained VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor

from experiments.autoencoder import build_autoencoder, measured_scaling, normalise_latents, reconstruct
from experiments.measures import measure_autoencoder, psnr
from experiments.miniature import write_diffusion_folder
from experiments.picture_runs import Pictures, check_limits, train_in_folder
from experiments.vae_training import AutoencoderRun
from vpd.errors import UsageError
from vpd.loading import find_device

CHANNELS = {4: (32, 64, 64), 8: (16, 32, 64, 64)}
"""Stride -> widths of the autoencoder's levels."""
CHECKPOINT = "vae-training.safetensors"
FINISHING_BATCHES = 32
"""Training batches on which latents are measured, each time."""


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
        minutes: Time; where neither is given, 10, or the limits of the run that is gone on with.
        size_px: Side of the crops, pixels, a multiple of 8.
        stride_px: Pixels to one latent: 4, or 8 as in Stable Diffusion, with less detail at a quarter of the cost.
        seed: Of weights and draws.
        resume: Go on from the checkpoint in `out`, if there is one.
        device: Where to train; `auto` takes a GPU if there is one.
        on_step: Called after each step with the run and its loss.

    Raises:
        UsageError: If there are no images, the size does not fit, or `out` holds another run.
    """
    pictures = Pictures.find(images, size_px=size_px, seed=seed)
    if stride_px not in CHANNELS:
        raise UsageError(f"stride {stride_px}: choose one of {', '.join(map(str, CHANNELS))} pixels.")
    check_limits(steps, minutes)
    vae = build_autoencoder(CHANNELS[stride_px], seed=seed).to(find_device(device))
    run = AutoencoderRun(vae, seed=seed, images=f"{pictures.mark}, stride {stride_px}")
    checkpoint = Path(out) / CHECKPOINT
    result = Path(out) / "vae" / SAFETENSORS_WEIGHTS_NAME
    stopped_by = train_in_folder(
        run, pictures, checkpoint, result=result, steps=steps, minutes=minutes, resume=resume, on_step=on_step
    )
    if stopped_by is not None:
        return VaeReport(Path(out), run.step, run.seconds / 60, stopped_by)
    finish_vae(vae.cpu(), pictures.batches(run.step))
    quality = _quality_on_files(vae, pictures) if pictures.files else _quality_on_world(vae, pictures)
    write_diffusion_folder(out, vae=vae, seed=seed)
    checkpoint.unlink(missing_ok=True)
    return VaeReport(Path(out), run.step, run.seconds / 60, None, quality.get("psnr_db"), quality.get("hue"))


def finish_vae(vae: AutoencoderKL, batches: Iterator[Tensor]) -> None:
    """Normalise the latents of a trained VAE and measure its scaling factor, on further batches."""
    normalise_latents(vae, islice(batches, FINISHING_BATCHES))
    factor = measured_scaling(vae, islice(batches, FINISHING_BATCHES))
    vae.register_to_config(scaling_factor=round(factor, 4))


def _quality_on_files(vae: AutoencoderKL, pictures: Pictures) -> dict[str, float]:
    """PSNR on the middles of photographs; nothing where none can be read."""
    truth = pictures.held_out()
    if not truth:
        return {}
    return {"psnr_db": psnr(torch.cat([reconstruct(vae, image) for image in truth]), torch.cat(truth))}


def _quality_on_world(vae: AutoencoderKL, pictures: Pictures) -> dict[str, float]:
    """PSNR and hue accuracy on scenes of the validation split."""
    return measure_autoencoder(vae, pictures.held_out_scenes())
