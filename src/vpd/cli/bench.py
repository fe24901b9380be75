"""`vpd bench`: the ways from image to features, measured side by side on this machine."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import DeviceOption


class SizeName(StrEnum):
    """Random models; the words of `vpd.benchmark.random_models.SIZES`."""

    tiny = "tiny"
    sd15 = "sd15"


def bench(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Model folder, hub id, or world-segment; else random."),
    ] = None,
    size: Annotated[
        SizeName | None,
        typer.Option(help="Random weights: tiny (default), or all of Stable Diffusion 1.5's: 8 GB, minutes."),
    ] = None,
    px: Annotated[
        int | None, typer.Option(min=8, metavar="N", help="Side of the picture; 256, or 512 with --size sd15.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, metavar="N", help="Class prompts that it is compared at.")] = 150,
    ways: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="reference, diffusers, exact, fast-float32, fast, small-encoder, merged, int8, compiled, exported; "
            "+heap after one keeps freed memory. Ratios are to the first.",
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="N,N,...", help="Sides for growth by size, such as 256,512,1024.")] = "",
    classes: Annotated[str, typer.Option(metavar="N,N,...", help="Prompts for growth, such as 1,150,1000.")] = "",
    batches: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Batches for throughput; on a GPU 1,2,4,8,16 if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Times that each way is timed.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads; 1 where others use the machine.")
    ] = None,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for bench.json, table.md, growth.png."),
    ] = None,
) -> None:
    """Measure ways from image to features side by side: the reference's, plain diffusers, this library's, exported.

    CPU seconds of all threads, wall time, memory, operations, share of what this machine's matrix products reach, and
    how far the features are from the reference's. The ways take turns, so that other load meets all of them alike.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each start, and reads this as it is loaded

    from vpd.benchmark.ways import DEFAULT, check_names
    from vpd.errors import UsageError

    if model is not None and size is not None:
        raise UsageError("--size makes a model with random weights. Give it or --model, not both.")
    names = DEFAULT if ways is None else tuple(name.strip() for name in ways.split(","))
    check_names(names)
    sides, counts = read_numbers("--sizes", sizes), read_numbers("--classes", classes)
    together = read_numbers("--batches", batches or "")

    import torch

    import vpd
    from vpd.benchmark.comparison import compare_ways
    from vpd.benchmark.random_models import random_model
    from vpd.benchmark.report import tables, write_report
    from vpd.loading import find_device
    from vpd.model_folder import results_folder

    if out is not None:
        results_folder(out)  # or the figures would be lost
    if threads is not None:
        torch.set_num_threads(threads)
    place, kind = find_device(device), (size or SizeName.tiny).value
    torch.manual_seed(0)
    loaded = vpd.load(model, device=place) if model else random_model(kind).to(place)
    if place.type == "cuda" and batches is None:
        together = (1, 2, 4, 8, 16)
    result = compare_ways(
        loaded,
        names=names,
        px=px or (512 if size is SizeName.sd15 else 256),
        prompts=prompts,
        rounds=rounds,
        sizes=sides,
        classes=counts,
        batches=together,
        say=lambda line: print(line, flush=True),
    )
    result = {"model": model or f"random, {kind}", **result}
    print(f"\n{tables(result)}\n")
    for dtype, peaks in result["peak_gflop_per_s"].items():
        print(f"This machine in {dtype}: " + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items()))
    if out is not None:
        print(f"{out}: {', '.join(write_report(result, out))}")


def read_numbers(option: str, words: str) -> tuple[int, ...]:
    """Whole numbers of an option, `256,512`.

    Raises:
        UsageError: If they are no whole numbers above 0.
    """
    from vpd.errors import UsageError

    parts = [part.strip() for part in words.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {words}: give whole numbers above 0 with commas between them, such as 256,512.")
    return tuple(int(part) for part in parts)
