"""`vpd demo`: the main job from nothing, with pictures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write into.")] = Path("demo"),
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training steps; fewer = quicker, worse.")] = None,
) -> None:
    """Train a small segmenter on rendered scenes for about two minutes, predict fresh ones, show them.

    Needs no weights, no data, no GPU and no network. It shows that the whole way works; it says nothing about
    what Stable Diffusion's weights can do.
    """
    from tqdm import tqdm

    from vpd.world.demo import STEPS, is_trained, run_demo

    print("A miniature of Stable Diffusion's form: its autoencoder is trained, its UNet and text encoder are random.")
    if is_trained(out):
        print(f"{out} holds a finished demo: its model is used again. Remove the folder to train anew.")
    else:
        print("The UNet and a head now learn seven classes from rendered scenes (about two minutes on two CPU cores).")
    report = run_demo(
        out,
        steps=steps or STEPS,
        show_bar=True,
        watch=lambda batches: tqdm(batches, desc="fresh scenes", unit="batch", disable=None),
    )
    print(f"mIoU on fresh scenes:      {100 * report.miou:5.1f}")
    print(f"most frequent class only:  {100 * report.majority_miou:5.1f}")
    print(f"Look at it:                {report.sheet}")
    command = "vpd" if shutil.which("vpd") else sys.argv[0]
    print(
        f"Use the model yourself:    {command} predict segment {report.scenes} --model {report.model} --out predictions"
    )
