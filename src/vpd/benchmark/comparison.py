"""All figures of one run: the ways side by side, and how they grow with size, prompts and batch."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from vpd.benchmark.measuring import (
    PARTS,
    clock_of,
    count_gflop,
    feature_errors,
    machine_peaks,
    peak_mib,
    time_rounds,
)
from vpd.benchmark.ways import FIRST, HEAP, WAYS, Way, check_names, find_ways
from vpd.errors import UsageError
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
    """Everything about these ways from image to features, as a dictionary for JSON; docs/performance.md explains it.

    Args:
        model: In float32; low-rank layers are merged.
        names: Ways, as `vpd.benchmark.ways.WAYS` has them; ratios are to the first.
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


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    cpu_facts = Path("/proc/cpuinfo")
    lines = cpu_facts.read_text(encoding="utf-8").splitlines() if cpu_facts.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": f"{names[0] if names else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
