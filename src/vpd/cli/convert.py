"""`vpd convert`: a published checkpoint becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import OutOption, TaskArgument


def convert(
    task: TaskArgument,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Published file.", show_default=False)],
    out: OutOption,
    diffusion: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="Stable Diffusion model it was trained from: text encoder of refer, recorded for segment and depth.",
        ),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Attention heads of the UNet; 8 in Stable Diffusion 1.x.")
    ] = None,
    max_depth: Annotated[
        float, typer.Option(min=0.01, metavar="METRES", help="depth: largest depth the model was trained for.")
    ] = 10.0,
) -> None:
    """Turn a published VPD checkpoint into a model folder."""
    from vpd.convert import convert as convert_checkpoint
    from vpd.model_folder import refuse_foreign_files, refuse_models

    refuse_models(out, or_runs=True)
    refuse_foreign_files(out)  # before the checkpoint is read
    model = convert_checkpoint(task, checkpoint, out, diffusion=diffusion, heads=heads, max_depth_m=max_depth)
    print(f"{out}: {model.config.task} model. See: vpd info {out}")
