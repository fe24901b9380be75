"""`vpd pretrain`: make a small diffusion model to start from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import DeviceOption, OutOption

app = typer.Typer(help="Make a small diffusion model to start from.", no_args_is_help=True, rich_markup_mode=None)


class Objective(StrEnum):
    """What `vpd pretrain diffusion` can teach; the words of `vpd.world.diffusion_training.Objective`."""

    text = "text"
    unconditional = "unconditional"
    masked = "masked"


@app.callback()
def _group() -> None:
    """Make a small diffusion model to start from."""


@app.command()
def vae(
    images: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder of images, or `world` for rendered scenes.", show_default=False),
    ],
    out: OutOption,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Minutes of training; 10 if no steps.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps; same seed and steps, same weights.")] = None,
    size: Annotated[int, typer.Option(metavar="N", help="Side of the training crops, pixels.")] = 128,
    stride: Annotated[int, typer.Option(metavar="N", help="Pixels to one latent: 4 or 8.")] = 4,
    seed: Annotated[int, typer.Option(metavar="S", help="Of weights and draws.")] = 0,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run in the same folder was stopped.")] = False,
) -> None:
    """Train a small VAE and write a complete miniature diffusion folder around it.

    UNet and text encoder of the folder are random: it is a place for `vpd train --model` to start from.
    """
    from tqdm import tqdm

    from vpd.world.pretraining import DEFAULT_MINUTES, pretrain_vae
    from vpd.world.vae_training import AutoencoderRun

    if steps is None and minutes is None:
        minutes = DEFAULT_MINUTES
    with tqdm(total=100.0, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}", disable=None) as bar:

        def show(run: AutoencoderRun, loss: float) -> None:
            bar.set_postfix(step=run.step, loss=f"{loss:.4f}", refresh=False)
            bar.update(100 * run.share_done(steps, minutes) - bar.n)

        report = pretrain_vae(
            images,
            out,
            steps=steps,
            minutes=minutes,
            size_px=size,
            stride_px=stride,
            seed=seed,
            resume=resume,
            device=device,
            on_step=show,
        )
    done = f"{report.steps} steps in {report.minutes:.1f} minutes"
    if report.stopped_by is not None:
        print(f"Stopped after {done}. Go on by the same command with --resume.")
        raise typer.Exit(128 + report.stopped_by)
    quality = "" if report.psnr_db is None else f" PSNR {report.psnr_db:.1f} dB on pictures not trained on"
    hue = "" if report.hue is None else f", hue of {100 * report.hue:.0f} % of objects kept"
    print(f"Trained: {done}.{quality}{hue}. Use it: vpd train TASK --model {Path(out)} --data DIR --out DIR")


@app.command()
def diffusion(
    out: OutOption,
    objective: Annotated[
        Objective, typer.Option(help="What the UNet learns; the last two make controls for experiments.")
    ] = Objective.text,
    latents: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of prepared latents, to share among runs.")
    ] = None,
    scenes: Annotated[int, typer.Option(metavar="N", help="Scenes to train on, a multiple of 1000.")] = 40_000,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps; same seed and steps, same weights.")] = 1100,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures of a step.")] = 96,
    size: Annotated[int, typer.Option(metavar="N", help="Side of the pictures, pixels, a multiple of 32.")] = 64,
    seed: Annotated[int, typer.Option(metavar="S", help="Of weights, scenes and draws.")] = 0,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that render.")] = 2,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run in the same folder was stopped.")] = False,
) -> None:
    """Pre-train a small text-to-image model on the rendered world, from nothing; about two hours on two CPU cores.

    This is how the shipped `world` was made. Scenes are rendered and encoded first, then UNet and text encoder learn
    together; the folder is laid out as Stable Diffusion's.
    """
    from tqdm import tqdm

    from vpd.world.diffusion_pretraining import pretrain_diffusion
    from vpd.world.diffusion_training import DiffusionRun

    with (
        tqdm(total=scenes // 1000, desc="scenes", unit="k", disable=None) as rendered,
        tqdm(total=steps, desc="steps", disable=None) as done,
    ):

        def show(run: DiffusionRun, loss: float) -> None:
            done.set_postfix(loss=f"{loss:.4f}", refresh=False)
            done.update(run.step - done.n)

        def count(shards: int, _: int) -> None:
            rendered.update(shards - rendered.n)

        report = pretrain_diffusion(
            out,
            objective=objective.value,
            latents=latents,
            scenes=scenes,
            steps=steps,
            batch_size=batch,
            size_px=size,
            seed=seed,
            workers=workers,
            resume=resume,
            device=device,
            on_shard=count,
            on_step=show,
        )
    words = f"{report.steps} steps in {report.cpu_minutes:.1f} CPU minutes"
    if report.stopped_by is not None:
        print(f"Stopped after {words}. Go on by the same command with --resume.")
        raise typer.Exit(128 + report.stopped_by)
    print(f"Trained: {words}.")
    if report.text_gap:
        gaps = ", ".join(f"{100 * gap:+.1f} % at t={timestep}" for timestep, gap in report.text_gap.items())
        print(f"Noise error with the captions of other pictures: {gaps}.")
    print(f"Use it: vpd train TASK --model {Path(out)} --data DIR --out DIR")
