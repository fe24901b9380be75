"""`vpd pretrain`: make a small diffusion model to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import DeviceOption, OutOption

app = typer.Typer(help="Make a small diffusion model to start from.", no_args_is_help=True, rich_markup_mode=None)


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
