"""The ways from image to features side by side: the reference's, plain diffusers', this library's, exported graphs.

    python benchmarks/compare_ways.py                                       # random weights, tiny: does it run
    python benchmarks/compare_ways.py --size sd15 --threads 2 --out bench   # Stable Diffusion 1.5's size: some 8 GB
    python benchmarks/compare_ways.py --model my-model --px 512 --sizes 256,512,1024 --classes 1,150,1000 --out bench

CPU seconds of all threads, wall time, memory, operations, share of what this machine's matrix products reach, and how
far the features are from the reference's. The ways take turns, so that other load meets all of them alike.
docs/performance/prediction.md says what each way is.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each start, and reads this as it is loaded

import torch
from random_models import SIZES, random_model
from torch import Tensor
from way import DEFAULT, FIRST, HEAP, WAYS, Way, check_names
from way_costs import PARTS, count_gflop, feature_errors, peak_mib, time_rounds
from ways import find_ways
from ways_report import tables, write_report

from vpd.bench.machine import clock_of, describe_machine, machine_peaks
from vpd.cli.bench import read_numbers
from vpd.errors import UsageError
from vpd.loading import find_device, load
from vpd.model_folder import results_folder
from vpd.tasks.model import PerceptionModel
from vpd.version import __version__

FORMAT_VERSION = 1
Say = Callable[[str], None]


def compare_ways(
    model: PerceptionModel,
    *,
    names: Sequence[str],
    px: int,
    prompts: int,
    rounds: int = 3,
    sizes: Sequence[int] = (),
    classes: Sequence[int] = (),
    batches: Sequence[int] = (),
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Everything about these ways from image to features, for JSON; docs/performance/prediction.md explains it.

    Args:
        model: In float32; low-rank layers are merged.
        names: Ways, as `way.WAYS` has them; ratios are to the first.
        px: Side of the picture, pixels.
        prompts: Number of class prompts; they are random.
        rounds: Times that each way is timed.
        sizes: Sides for growth by size.
        classes: Numbers of prompts for growth by classes.
        batches: Numbers of pictures for throughput.
        say: Told what goes on.

    Raises:
        UsageError: If a way is unknown, or a number does not fit the model.
    """
    check_names(names)
    check_sizes((px, *sizes), model.output_multiple_px)
    for word, numbers in (("prompts", (prompts, *classes)), ("batches", batches), ("rounds", (rounds,))):
        if min(numbers, default=1) < 1:
            raise UsageError(f"{word}: got {min(numbers)}; give 1 or more.")
    model.eval().merge_lora()
    machine = describe_machine(model.device)
    clock = clock_of(model.device)
    with TemporaryDirectory() as folder:
        ways, skipped = find_ways(model, names, Path(folder))
        for name, reason in skipped.items():
            say(f"{name} is left out: {reason}")
        if not ways:
            raise UsageError(f"None of these ways can be run here: {'; '.join(skipped.values())}.")
        peaks = {way.dtype: machine_peaks(model.device, way.dtype) for way in ways}
        inputs = draw(model, px=px, prompts=prompts)
        figures = _side_by_side(model, ways, *inputs, rounds=rounds, peaks=peaks, say=say)
        growth = {}
        for axis, numbers in (("size", sizes), ("classes", classes), ("batch", batches)):
            if numbers:
                place = {"px": px, "prompts": prompts, "batch": 1}
                growth[axis] = _growth(model, ways, axis, numbers, place, rounds, say)
    return {
        "format_version": FORMAT_VERSION,
        "vpd_version": __version__,
        "px": px,
        "prompts": prompts,
        "rounds": rounds,
        "clock": clock,
        "machine": machine,
        "peak_gflop_per_s": {str(dtype).removeprefix("torch."): found for dtype, found in peaks.items()},
        "ways": figures,
        "skipped": skipped,
        "growth": growth,
    }


def check_sizes(sizes: Sequence[int], multiple_px: int) -> None:
    """Make sure that all ways take pictures of these sides.

    Raises:
        UsageError: If one is no multiple of the stride of the model's coarsest map.
    """
    wrong = [px for px in sizes if px < multiple_px or px % multiple_px]
    if wrong:
        raise UsageError(
            f"A side of {wrong[0]} px does not fit: give multiples of {multiple_px} px, the stride of this model's "
            "coarsest map, as others' ways do not pad."
        )


def draw(model: PerceptionModel, *, px: int, prompts: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Random pictures `(b, 3, px, px)` in [-1, 1] and prompts `(1, k, d)`, the same each time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, px, px, generator=generator) * 2 - 1
    return images, torch.randn(1, prompts, model.backbone.text_dim, generator=generator)


def _side_by_side(
    model: PerceptionModel,
    ways: list[Way],
    images: Tensor,
    text: Tensor,
    *,
    rounds: int,
    peaks: dict[torch.dtype, dict[str, float]],
    say: Say,
) -> dict[str, Any]:
    """Each way's figures at one size."""
    names = [way.name for way in ways]
    gflop = count_gflop(model, list(dict.fromkeys(["exact", *names])), px=images.shape[-1], prompts=text.shape[1])
    (first,), _ = find_ways(model, [FIRST], Path())
    with torch.no_grad():
        wanted = first.features(first.encode(images.to(model.device)), first.prepare(text))
    memory = _peaks_mib(ways, images, text)
    errors = {way.name: feature_errors(way, images, text, wanted) for way in ways if not way.has_random_weights}
    clock = clock_of(model.device)
    seconds = time_rounds(ways, images, text, rounds, on_round=lambda name, s: say(f"{name:<16} {s:.3f} {clock}"))
    figures = {}
    for way in ways:
        median = seconds[way.name][clock]["median"]
        work = gflop[way.name if way.is_spared_work else "exact"]
        figures[way.name] = {
            "what": WAYS[way.name.removesuffix(HEAP)] + (", freed memory kept" if way.keeps_heap else ""),
            "dtype": str(way.dtype).removeprefix("torch."),
            "seconds": seconds[way.name],
            "times_faster": seconds[ways[0].name][clock]["median"] / median,
            "gflop": gflop[way.name],
            "share_of_peak": sum(work.values()) / median / peaks[way.dtype]["matrix"],
            "peak_mib": memory[way.name],
            "errors": errors.get(way.name),
        }
    return figures


def _growth(
    model: PerceptionModel,
    ways: list[Way],
    axis: str,
    numbers: Sequence[int],
    place: dict[str, int],
    rounds: int,
    say: Say,
) -> dict[str, list[dict[str, Any]]]:
    """Each way's time, operations and memory at each of the numbers, and these as ratios to those of the first."""
    word = {"size": "px", "classes": "prompts", "batch": "batch"}[axis]
    clock = clock_of(model.device)
    ratios = {"time": clock, "unet_time": f"unet_{clock}", "gflop": "gflop"}
    ratios |= {f"{part}_peak": f"{part}_peak_mib" for part in PARTS}
    curves: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
    for number in numbers:
        here = place | {word: number}
        say(f"{axis} {number}")
        gflop = count_gflop(model, list(curves), **here)
        inputs = draw(model, **here)
        memory = _peaks_mib(ways, *inputs)
        seconds = time_rounds(ways, *inputs, rounds, on_round=lambda name, s: None)
        for name, points in curves.items():
            point: dict[str, Any] = {axis: number, **{key: found["median"] for key, found in seconds[name].items()}}
            point["gflop"] = sum(gflop[name].values())
            for part in PARTS:  # what a process outside torch has grown by depends on its passes before
                point[f"{part}_peak_mib"] = memory[name].get(part)
            base = points[0] if points else point
            for ratio, key in ratios.items():
                point[f"{ratio}_ratio"] = point[key] / base[key] if base[key] else None
            point["images_per_s"] = here["batch"] / point["wall_s"]
            points.append(point)
    return curves


def _peaks_mib(ways: list[Way], images: Tensor, text: Tensor) -> dict[str, dict[str, float]]:
    """Each way's most memory by part; measured once for a way and the same with its heap kept."""
    plain = {way.name.removesuffix(HEAP): way for way in ways}
    found = {name: peak_mib(way, images, text) for name, way in plain.items()}
    return {way.name: found[way.name.removesuffix(HEAP)] for way in ways}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="model folder, hub id, or world-segment; else random weights")
    source.add_argument("--size", choices=list(SIZES), default="tiny", help="of random weights")
    parser.add_argument("--px", type=int, help="side of the picture; 256, or 512 with --size sd15")
    parser.add_argument("--prompts", type=int, default=150, help="class prompts that it is compared at")
    parser.add_argument("--ways", default=",".join(DEFAULT), help=f"of {', '.join(WAYS)}; {HEAP} keeps freed memory")
    parser.add_argument("--sizes", help="sides for growth by size, such as 256,512,1024")
    parser.add_argument("--classes", help="prompts for growth, such as 1,150,1000")
    parser.add_argument("--batches", help="batches for throughput; on a GPU 1,2,4,8,16 if not given")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is timed")
    parser.add_argument("--threads", type=int, help="1 where others use the machine")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="folder for bench.json, table.md, growth.png")
    given = parser.parse_args(arguments)
    if given.out is not None:
        results_folder(given.out)  # or the figures would be lost
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    device = find_device(given.device)
    torch.manual_seed(0)
    model = load(given.model, device=device) if given.model else random_model(given.size).to(device)
    sides, counts, batches = (
        read_numbers(f"--{name}", words) if (words := getattr(given, name)) else ()
        for name in ("sizes", "classes", "batches")
    )
    result = compare_ways(
        model,
        names=[name.strip() for name in given.ways.split(",")],
        px=given.px or (256 if given.model or given.size == "tiny" else 512),
        prompts=given.prompts,
        rounds=given.rounds,
        sizes=sides,
        classes=counts,
        batches=batches or ((1, 2, 4, 8, 16) if device.type == "cuda" else ()),
        say=lambda line: print(line, flush=True),
    )
    result = {"model": given.model or f"random, {given.size}", **result}
    print(f"\n{tables(result)}\n")
    for dtype, peaks in result["peak_gflop_per_s"].items():
        print(f"This machine in {dtype}: " + ", ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks.items()))
    if given.out is not None:
        print(f"{given.out}: {', '.join(write_report(result, given.out))}")


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"compare_ways.py: {error}")
