"""`vpd train`: a model adapted to data, in a folder that a stopped run goes on from."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vpd.cli.options import FormatOption, OutOption, ResumeOption, TaskArgument
from vpd.errors import UsageError


def train(
    task: TaskArgument,
    out: OutOption,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the data set, or `world`: rendered scenes.")
    ] = None,
    format: FormatOption = None,  # noqa: A002, the option's name
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Diffusion model to adapt (folder, hub id, single file, `world`), or model folder to go on from.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Settings as YAML: a file, or a shipped recipe such as ade20k-reference, refcoco-default, nyu-1epoch, "
            "own-segment (an unknown name lists all).",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="One setting, such as -s steps=2000; may be repeated."),
    ] = None,
    resume: ResumeOption = False,
) -> None:
    """Train a model; settings that are not given are those of the recipe (-s recipe=reference: as published).

    The folder gets config.yaml (all settings: enough to repeat the run), checkpoints, log.jsonl, TensorBoard
    curves, sample pictures and, at the end, model/. Several processes: torchrun --nproc-per-node 8 -m vpd train ...
    """
    import os

    import torch

    from vpd.overrides import parse_overrides
    from vpd.processes import leave_processes
    from vpd.training.run import train as run_training
    from vpd.training.settings import read_settings

    given: dict[str, Any] = {} if model is None else {"model": model}
    source = {key: value for key, value in (("root", data), ("format", format)) if value is not None}
    layers = (read_settings(config) if config else {}, given | ({"data": source} if source else {}))
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        folder = run_training(task, out, *layers, parse_overrides(settings or []), resume=resume, show_bar=is_first)
    except FloatingPointError as error:
        if is_first:  # the others say the same
            print(f"vpd: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except torch.OutOfMemoryError:
        raise UsageError(
            "The device has not enough memory. Cut the samples of a step into more parts (-s accumulate=8), or set "
            "-s precision=bf16, -s gradient_checkpointing=cheap (or =true: slower, with less) or a smaller -s crop_px."
        ) from None
    if is_first:
        print("\n".join(_next_commands(task, folder, out)), flush=True)
    leave_processes()


def _next_commands(task: str, model: Path, run: Path) -> list[str]:
    """What to do with a trained model, with the paths of this run."""
    from vpd.datasets.layouts import splits_of
    from vpd.model_folder import CONFIG
    from vpd.training.settings import read_settings
    from vpd.weights.shipped import WORLD

    source: dict[str, Any] = read_settings(run / CONFIG)["data"]
    root, split = source["root"], source["validation_split"] or source["split"]
    folders = (Path(root, "images", split), Path(root, "images"))
    pictures = next((str(folder) for folder in folders if folder.is_dir()), "IMAGE...")
    measure = ["vpd", "eval", task, "--model", model, "--data", root]
    measure += ["--format", source["format"]] if Path(root).is_dir() else []
    is_here = Path(root).is_dir() or root == WORLD  # the splits of a hub's data set are not asked for again
    tests = [name for name in splits_of(root, source["format"]) if name.lower() == "test"] if is_here else []
    measure += ["--split", tests[0]] if tests else []  # no choice of this run was made by it
    for key, value in source["options"].items():
        measure += ["-s", f"{key}={json.dumps(value)}"]
    predict = ["vpd", "predict", task, pictures, "--model", model]
    predict += ["--text", "what to find"] if task == "refer" else []
    commands = ([*measure, "--report", f"{run}-report"], [*predict, "--out", f"{run}-predictions"])
    told = [shlex.join(map(str, words)).replace("'IMAGE...'", "IMAGE...") for words in commands]
    return [f"Trained: {model}", f"Measure it: {told[0]}", f"Use it:     {told[1]}"]
