"""`vpd demo`: the whole system on fresh scenes, by the models that come with the package."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import show_progress
from vpd.errors import UsageError

_MOST_THREADS = 8
"""Threads wait for one another after every layer, awake; one that others keep from its core holds up all."""


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write into.")] = Path("demo"),
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to draw samples of; none = a room with two objects.")
    ] = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Instead: the pre-trained UNet against a random one (2 minutes)."),
    ] = False,
) -> None:
    """Three tasks on fresh rendered scenes, attention to words and samples of a text, on a page to open in a browser.

    Needs no weights, no data, no GPU and no network: the models come with the package. They know rendered scenes only.
    """
    if prompt is not None and (train or not prompt.strip()):
        raise UsageError("--prompt needs some words, and goes without --train.")
    _take_own_cores()
    command = "vpd" if shutil.which("vpd") else f"{sys.executable} -m vpd"
    if train:
        _race(out, command)
    else:
        _show(out, prompt, command)


def _take_own_cores() -> None:
    """No more threads than this process is given time for, nor than share work on small pictures well."""
    import torch

    from vpd.processes import usable_cores

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores(), _MOST_THREADS))


def _show(out: Path, prompt: str | None, command: str) -> None:
    from vpd.demo.demo import PROMPT, run_demo
    from vpd.processes import Heartbeat

    with Heartbeat(enabled=True) as heartbeat, heartbeat.doing("Drawing the demo"):
        report = run_demo(
            out,
            prompt=prompt or PROMPT,
            watch=lambda task, batches: show_progress(batches, heartbeat, is_shown=True, what=f"{task}, fresh scenes"),
        )
    for figure in report.figures:
        print(f"{figure.task:<8} {figure.words()}")
    print(f"Look at it:        {report.page}  (or {report.sheet})")
    print(f"Try it yourself:   {command} predict segment {report.scenes} --model world --out predictions")
    print(f'                   {command} demo --prompt "a blue cube" --out {out}')
    print(f"Does it pay?       {command} demo --train --out {out}")


def _race(out: Path, command: str) -> None:
    from vpd.demo.race import run_race

    print("One segmenter, trained from a random UNet and from the pre-trained one. mIoU on fresh scenes:")
    print(f"Live curves: open {out / 'training.html'}", flush=True)

    def tell(arm: str, step: int, miou: float) -> None:
        print(f"{arm:<11} step {step:3}: {100 * miou:5.1f}", flush=True)

    page, race = run_race(out, on_measured=tell)
    reached = race.steps_to_the_end_of_random()
    when = "never reached by" if reached is None else f"reached after {reached} steps by"
    print(f"What random weights have after {race.steps[-1]} steps is {when} the pre-trained ones.")
    print(f"Look at it: {page}")
