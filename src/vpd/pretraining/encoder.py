"""`vpd pretrain encoder`: a small encoder that makes the latents of a model's VAE, from pictures alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from vpd.backbones.tiny_encoder import CONFIG_FILE as ENCODER_CONFIG_FILE
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig, save_tiny_encoder
from vpd.backbones.vae_walk import latent_stride
from vpd.errors import UsageError
from vpd.loading import find_device, is_adapted, load
from vpd.pretraining.encoder_training import EncoderRun, latent_error
from vpd.pretraining.picture_runs import Pictures, check_limits, train_in_folder
from vpd.weights.difference import weights_fingerprint
from vpd.weights.sources import load_vae

CHECKPOINT = "encoder-training.safetensors"
STRIDES = (2, 4, 8)
"""Of the VAEs that an encoder can be made for."""


@dataclass(frozen=True)
class EncoderReport:
    """What a training run came to."""

    folder: Path
    steps: int
    minutes: float
    stopped_by: int | None = None
    """Signal that ended the run before its time; it can be resumed."""
    latent_error: float | None = None
    """Relative L2 error of latents on pictures that were not trained on; 1 = as far off as zeros."""


def pretrain_encoder(
    images: str | Path,
    out: str | Path,
    *,
    model: str | Path,
    steps: int | None = None,
    minutes: float | None = None,
    size_px: int = 128,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    on_step: Callable[[EncoderRun, float], None] | None = None,
) -> EncoderReport:
    """Distil a model's VAE into an encoder of TAESD's architecture, for `vpd.optimise(model, encoder=out)`.

    Stride and channels of the latents are the VAE's. A checkpoint is written every minute. SIGTERM and Ctrl-C end the
    run after the step, with a checkpoint.

    Args:
        images: Folder of images, or `world`.
        out: Folder to write; gets `config.json` and `diffusion_pytorch_model.safetensors`, as diffusers'
            `AutoencoderTiny` has them.
        model: Whose VAE: a diffusion model (folder, hub id, single file, `world`), or a folder of a model adapted from
            one.
        steps: Optimiser steps; the same seed and steps give the same weights on the same machine.
        minutes: Time; where neither is given, 10, or the limits of the run that is gone on with.
        size_px: Side of the crops, pixels, a multiple of 8.
        seed: Of weights and draws.
        resume: Go on from the checkpoint in `out`, if there is one.
        device: Where to train; `auto` takes a GPU if there is one.
        on_step: Called after each step with the run and its loss.

    Raises:
        UsageError: If there are no images or no such model, its VAE or the size does not fit, or `out` holds
            another run.
    """
    pictures = Pictures.find(images, size_px=size_px, seed=seed)
    check_limits(steps, minutes)
    place = find_device(device)
    teacher = find_teacher(model)
    stride_px = latent_stride(teacher)
    if stride_px not in STRIDES:
        raise UsageError(
            f"The VAE of {model} has stride {stride_px}; small encoders are made for {', '.join(map(str, STRIDES))}."
        )
    config = TinyEncoderConfig.for_vae(latent_stride=stride_px, latent_channels=teacher.config.latent_channels)
    run = EncoderRun(
        new_encoder(config, seed=seed).to(place),
        seed=seed,
        images=pictures.mark,
        teacher=teacher.to(device=place, memory_format=torch.channels_last),
        model=f"{model} ({weights_fingerprint(teacher.state_dict())[:12]})",
    )
    checkpoint = Path(out) / CHECKPOINT
    result = Path(out) / ENCODER_CONFIG_FILE  # of an encoder, or of another model
    stopped_by = train_in_folder(
        run, pictures, checkpoint, result=result, steps=steps, minutes=minutes, resume=resume, on_step=on_step
    )
    if stopped_by is not None:
        return EncoderReport(Path(out), run.step, run.seconds / 60, stopped_by)
    encoder, truth = run.network.cpu(), pictures.held_out()
    error = latent_error(encoder, teacher.cpu(), truth) if truth else None
    save_tiny_encoder(encoder, out)
    checkpoint.unlink(missing_ok=True)
    return EncoderReport(Path(out), run.step, run.seconds / 60, None, error)


def find_teacher(model: str | Path) -> AutoencoderKL:
    """The VAE of a diffusion model or of a model adapted from one, float32, without its decoder.

    Raises:
        UsageError: If there is no such model, or it is damaged.
    """
    vae = load(model, device="cpu").backbone.vae if is_adapted(model) else load_vae(model)
    vae.decoder = vae.post_quant_conv = None
    return vae.eval().requires_grad_(False)


def new_encoder(config: TinyEncoderConfig, *, seed: int) -> TinyEncoder:
    """An encoder with random weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyEncoder(config)
