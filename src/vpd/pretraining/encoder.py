"""`vpd pretrain encoder`: a small encoder that makes the latents of a model's VAE, from pictures alone."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from vpd.backbones.tiny_encoder import CONFIG_FILE as ENCODER_CONFIG_FILE
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig, save_tiny_encoder
from vpd.backbones.vae_walk import latent_stride
from vpd.data.batches import SampleStream
from vpd.data.sample import SampleSet, Transform
from vpd.errors import UsageError
from vpd.files.atomic import left_as_found, remove_folder, writable_folder
from vpd.files.lock import only_run_in
from vpd.loading import find_device, has_fast_bf16, is_adapted, load
from vpd.model_folder import CHECKPOINTS, CONFIG, MODEL, WEIGHTS_FILE, is_run
from vpd.pretraining.distillation import Distillation, distillation_config, latent_error, wanted_latents
from vpd.pretraining.pictures import find_pictures, middles
from vpd.processes import find_processes
from vpd.tensors import Batch
from vpd.training.checkpoints import Checkpoint, latest_checkpoint
from vpd.training.config import TrainConfig
from vpd.training.feed import Feed
from vpd.training.loop import Training
from vpd.training.settings import read_settings
from vpd.training.setup import data_identity
from vpd.training.step import Stepper
from vpd.weights.difference import weights_fingerprint
from vpd.weights.sources import load_vae

logger = logging.getLogger(__name__)

RUN = "training"
"""Folder in that of the encoder: the log of its training, and checkpoints until it is done."""
STRIDES = (2, 4, 8)
"""Of the VAEs that an encoder can be made for."""
DEFAULT_MINUTES = 10.0
_TIMED_STEPS = 3


@dataclass(frozen=True)
class EncoderReport:
    """What a training run came to."""

    folder: Path
    steps: int
    minutes: float
    """Since it was started, or gone on with."""
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
    workers: int = 2,
    resume: bool = False,
    device: str = "auto",
    show_bar: bool = False,
) -> EncoderReport:
    """Distil a model's VAE into an encoder of TAESD's architecture, for `vpd.optimise(model, encoder=out)`.

    Stride and channels of the latents are the VAE's.

    Args:
        images: Folder of images, or `world`.
        out: Folder to write; gets `config.json` and `diffusion_pytorch_model.safetensors`, as diffusers'
            `AutoencoderTiny` has them, and `training/`.
        model: Whose VAE: a diffusion model (folder, hub id, single file, `world`), or a folder of a model adapted from
            one.
        steps: Optimiser steps; the same seed and steps give the same weights on the same machine.
        minutes: Time of the whole training, made into steps by the pace of some that are tried first. Where neither is
            given, 10; where both are, whichever ends first. A run that is gone on with keeps its steps.
        size_px: Side of the crops, pixels, a multiple of 8.
        seed: Of weights and draws.
        workers: Processes that read pictures.
        resume: Go on from the checkpoint in `out`, if there is one.
        device: Where to train; `auto` takes a GPU if there is one.
        show_bar: Show a progress bar.

    Raises:
        UsageError: If there are no images or no such model, its VAE or the size does not fit, or `out` holds
            another run.
        SystemExit: With 143 or 130, after saving, if SIGTERM or Ctrl-C came.
    """
    train_set, held_out, transform = find_pictures(images, size_px=size_px, seed=seed)
    if (steps is not None and steps < 1) or (minutes is not None and minutes <= 0):
        raise UsageError(f"steps={steps}, minutes={minutes}: both must be more than 0.")
    place, teacher = find_device(device), find_teacher(model)
    form = encoder_form(teacher, model)
    folder = Path(out)
    checkpoint = _find_checkpoint(folder, resume=resume)
    config = distillation_config(
        model=f"{model} ({weights_fingerprint(teacher.state_dict())[:12]})",
        images=str(images),
        size_px=size_px,
        steps=steps or 1,
        seed=seed,
        workers=workers,
        use_bf16=has_fast_bf16(place),
    )
    if checkpoint:
        _refuse_other_run(checkpoint, config, train_set)
    wanted = partial(wanted_latents, teacher.to(device=place, memory_format=torch.channels_last))
    student = Distillation(new_encoder(form, seed=seed), wanted)
    began_s = time.monotonic()
    is_held = threading.Event()
    with (
        # before it is held, what is new in it is another run's
        left_as_found(folder, is_work=lambda path: not is_held.is_set() or _came_of_steps(path)),
        only_run_in(writable_folder(folder)),
    ):
        is_held.set()
        accelerator = find_processes(None if device == "auto" else place)
        if steps is None and checkpoint:  # another measuring of the pace would give other steps
            steps = int(read_settings(checkpoint.folder / CONFIG)["steps"])
        elif minutes is not None or steps is None:
            trial = Distillation(new_encoder(form, seed=seed), wanted)
            batch = _first_batch(train_set, transform, config)
            in_time = _steps_in(minutes or DEFAULT_MINUTES, trial, config, batch, accelerator)
            steps = min(in_time, steps or in_time)
        config = config.model_copy(update={"steps": steps})
        if checkpoint:
            _refuse_passed_limit(checkpoint, config, folder)
            student.load_state_dict(load_file(checkpoint.folder / WEIGHTS_FILE))
        Training(
            student,  # type: ignore[arg-type]  # has what the loop needs of a model
            train_set,
            transform,
            config,
            folder / RUN,
            checkpoint=checkpoint,
            accelerator=accelerator,
            show_bar=show_bar,
        ).run()
        encoder = student.backbone.cpu().eval()
        error = latent_error(encoder, teacher.cpu(), middles(held_out, size_px))
        save_tiny_encoder(encoder, folder)
        for name in (CHECKPOINTS, MODEL):
            remove_folder(folder / RUN / name)
    return EncoderReport(folder, config.steps or 0, (time.monotonic() - began_s) / 60, error)


def _came_of_steps(path: Path) -> bool:
    """Whether something in the folder is more than what is there before the first step."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return any(file.suffix in (".safetensors", ".jsonl") and file.stat().st_size for file in files)


def find_teacher(model: str | Path) -> AutoencoderKL:
    """The VAE of a diffusion model or of a model adapted from one, float32, without its decoder.

    Raises:
        UsageError: If there is no such model, or it is damaged.
    """
    vae = load(model, device="cpu").backbone.vae if is_adapted(model) else load_vae(model)
    vae.decoder = vae.post_quant_conv = None
    return vae.eval().requires_grad_(False)


def encoder_form(teacher: AutoencoderKL, model: str | Path) -> TinyEncoderConfig:
    """The form of an encoder that makes the latents of a model's VAE.

    Raises:
        UsageError: If there is none for the VAE's stride.
    """
    stride_px = latent_stride(teacher)
    if stride_px not in STRIDES:
        raise UsageError(
            f"The VAE of {model} has stride {stride_px}; small encoders are made for {', '.join(map(str, STRIDES))}."
        )
    return TinyEncoderConfig.for_vae(latent_stride=stride_px, latent_channels=teacher.config.latent_channels)


def new_encoder(config: TinyEncoderConfig, *, seed: int) -> TinyEncoder:
    """An encoder with random weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyEncoder(config)


def _find_checkpoint(folder: Path, *, resume: bool) -> Checkpoint | None:
    """Where a stopped run is gone on with, if there is one; raises where the folder holds anything else of value."""
    result = folder / ENCODER_CONFIG_FILE  # of an encoder, or of another model
    if is_run(folder):
        raise UsageError(f"{folder} holds a run of vpd train. Give another folder.")
    if result.is_file():
        raise UsageError(f"{folder} holds a model already, {result}. Give another folder, or remove it.")
    if old := next(folder.glob("*-training.safetensors"), None):
        raise UsageError(f"{old} is of a run that an older vpd began. Finish it with that, or give another folder.")
    checkpoint = latest_checkpoint(folder / RUN / CHECKPOINTS)
    if checkpoint and not resume:
        raise UsageError(f"{folder} holds an unfinished run. Go on with it by --resume, or give another folder.")
    return checkpoint


def _refuse_other_run(checkpoint: Checkpoint, config: TrainConfig, train_set: SampleSet) -> None:
    """Raise where a run was begun with other settings, or with other pictures."""
    saved = read_settings(checkpoint.folder / CONFIG)
    before = {"model": saved["model"], "size": saved["crop_px"], "seed": saved["seed"], "images": checkpoint.data}
    now = {"model": config.model, "size": config.crop_px, "seed": config.seed, "images": data_identity(train_set)}
    for name, value in now.items():
        if before[name] != value:
            told = "are others now" if name == "images" else f"was {before[name]}, not {value}"
            raise UsageError(
                f"{checkpoint.folder} is of a run whose {name} {told}. Give the same {name}, or another output folder."
            )


def _refuse_passed_limit(checkpoint: Checkpoint, config: TrainConfig, folder: Path) -> None:
    """Raise where a run has done as many steps as it is asked for, unless it was to be saved next."""
    asked, begun = config.steps or 0, read_settings(checkpoint.folder / CONFIG)["steps"]
    if checkpoint.step >= asked and asked != begun:
        raise UsageError(
            f"The run in {folder} has done {checkpoint.step} steps, which is all of steps={asked}. Give more, or no "
            "limit to go on as it was begun."
        )


def _first_batch(train_set: SampleSet, transform: Transform, config: TrainConfig) -> Batch:
    """What the first step of a run takes."""
    stream = SampleStream(train_set, transform, seed=config.seed, batch_size=config.batch_size)
    with closing(iter(stream)) as batches:
        return next(batches)


def _steps_in(minutes: float, trial: Distillation, config: TrainConfig, batch: Batch, accelerator: Accelerator) -> int:
    """How many steps so many minutes are, by the pace of a few that change nothing but a trial."""
    stepper = Stepper(trial, config, accelerator)  # type: ignore[arg-type]
    feed, took_s = Feed(repeat(batch), accelerator.device), []
    for _ in range(1 + _TIMED_STEPS):  # the first makes ready
        began_s = time.perf_counter()
        stepper.take(0, config.learning_rate, feed)
        took_s.append(time.perf_counter() - began_s)
    stepper.close()
    pace_s = median(took_s[1:])
    steps = max(1, round(60 * minutes / pace_s))
    logger.info("At %.2g s a step, %g minutes are %d steps.", pace_s, minutes, steps)
    return steps
