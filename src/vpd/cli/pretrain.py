"""`vpd pretrain`: train small networks from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import DeviceOption, OutOption, ResumeOption

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:  # or its one command would be the group
    """Train a small network from pictures."""


@app.command()
def encoder(
    images: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder of images, or `world` for rendered scenes.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Whose VAE to imitate: a diffusion model (folder, hub id, single file, `world`), or a model folder.",
            show_default=False,
        ),
    ],
    out: OutOption,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="Minutes; 10 if no steps, or as begun.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps; same seed and steps, same weights.")] = None,
    size: Annotated[int, typer.Option(metavar="N", help="Side of the training crops, pixels.")] = 128,
    seed: Annotated[int, typer.Option(metavar="S", help="Of weights and draws.")] = 0,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
) -> None:
    """Train a small encoder to make a VAE's latents, for `vpd predict --encoder` and `vpd eval --encoder`.

    It has TAESD's architecture, and nine times fewer operations than Stable Diffusion's encoder. Pictures need no
    labels; take such as will be predicted.
    """
    from vpd.pretraining.encoder import pretrain_encoder

    try:
        report = pretrain_encoder(
            images,
            out,
            model=model,
            steps=steps,
            minutes=minutes,
            size_px=size,
            seed=seed,
            resume=resume,
            device=device,
            show_bar=True,
        )
    except KeyboardInterrupt:  # where no step is under way that could be finished first
        print("Stopped. What is saved stays; go on by the same command with --resume.", flush=True)
        raise typer.Exit(130) from None
    done = f"{report.steps} steps in {report.minutes:.1f} minutes"
    error = "" if report.latent_error is None else f" Latents {report.latent_error:.1%} off on pictures not trained on."
    print(f"Trained: {done}.{error} Use it: vpd predict TASK IMAGES --model MODEL --encoder {Path(out)} --out DIR")
