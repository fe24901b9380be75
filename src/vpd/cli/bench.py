"""`vpd bench`: how fast a model is on this machine, and which options pay."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vpd.cli.options import DeviceOption, model_source
from vpd.errors import UsageError


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Model folder, or hub id of one; if not given, the shipped segmentation model, world-segment.",
        ),
    ] = None,
    size: Annotated[
        Literal["sd15"] | None,
        typer.Option(
            metavar="sd15",
            help="Instead of --model: random weights of Stable Diffusion 1.5's size. Needs 8 GB, and minutes on a CPU.",
        ),
    ] = None,
    px: Annotated[
        int | None,
        typer.Option(min=8, metavar="N", help="Side of the picture; the size that the model predicts at if not given."),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Pictures together; 1,4 if not given (GPU: 1,4,16), or 1 where one picture takes over a second.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="ENCODER", help="Also try this small encoder: folder or hub id, as for `vpd predict`."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also try torch.compile: minutes, and it pays on GPUs.")
    ] = False,
    pictures: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="JPEG files that one `predict` is timed on; 64 on a GPU, else 0, if not given."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Times that everything is timed.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads on the CPU.")] = None,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for bench.json and bench.md.")
    ] = None,
) -> None:
    """How fast is my model on this machine, and which options pay?

    Runs the model as it is, with --keep-heap (on a CPU), with --fast, and with what else you ask for: seconds of the
    network alone and of a whole `predict`, memory, how far the outputs change, pictures a second in batches. On a GPU
    the network is timed by events, and a `predict` of many files stands beside it.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each start, and reads this as it is loaded

    if model is not None and size is not None:
        raise UsageError("--size makes a model with random weights. Give it or --model, not both.")
    together = None if batches is None else read_numbers("--batches", batches)

    import torch

    import vpd
    from vpd.bench.measuring import measure_speed, random_sd15
    from vpd.bench.report import check_own_report, describe, write_report
    from vpd.loading import find_device
    from vpd.model_folder import check_results_folder

    if out is not None:
        check_results_folder(out)  # or the figures would be lost
        check_own_report(out)
    if threads is not None:
        torch.set_num_threads(threads)
    place = find_device(device)
    torch.manual_seed(0)
    source = model_source(model or "world", "segment")
    loaded = random_sd15(place) if size else vpd.load(source, device=place)
    say = partial(print, flush=True)
    asked: dict[str, Any] = {"px": px, "rounds": rounds, "batches": together, "pictures": pictures}
    result = measure_speed(loaded, **asked, encoder=encoder, is_compiled=compiled, say=say)
    result = {"model": "random weights, sd15" if size else source, **result}
    print(f"\n{describe(result)}")
    if out is not None:
        print(f"{out}: {', '.join(write_report(result, out))}")


def read_numbers(option: str, words: str) -> tuple[int, ...]:
    """Whole numbers of an option, `1,4,16`.

    Raises:
        UsageError: If they are no whole numbers above 0.
    """
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {words}: give whole numbers above 0 with commas between them, such as 1,4,16.")
    return tuple(int(part) for part in parts)
