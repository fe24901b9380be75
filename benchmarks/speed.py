"""Time and memory from image to features: the reference's way, ours exact, ours fast, side by side in one process.

    python benchmarks/speed.py --size tiny --px 64                          # does it run
    python benchmarks/speed.py --size sd15 --rounds 3 --threads 1 --out speed.json   # Stable Diffusion 1.5's size

Weights are random. The ways take turns, so that what else the machine does meets all of them alike. Time is CPU time
of all threads and wall time; give one thread where others use the machine, as waiting threads count too. Memory is
what torch allocates over the weights, by its own profiler. Shares are of the peak that matrix products reach here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reference_way
import torch
from modes import build_model
from torch import Tensor

from vpd.allocator import free_heap, keep_heap
from vpd.optimising import fast_dtype, optimise
from vpd.types import Features

PARTS = ("encoder", "unet")


@dataclass(frozen=True)
class Way:
    """One way to compute features."""

    name: str
    encode: Callable[[Tensor], Tensor]
    """Images in [-1, 1] -> latents."""
    features: Callable[[Tensor], tuple[Tensor, ...]]
    """Latents -> maps, finest first, then attention, finer first."""
    dtype: torch.dtype
    keeps_heap: bool


def find_ways(model: Any, wanted: list[str]) -> list[Way]:
    """The ways of these names, with a copy of the model where one needs it; `+heap` after a name keeps the heap."""
    found, copies = [], {}
    for name in wanted:
        base, _, heap = name.partition("+")
        if base == "reference":
            encode, features, dtype = *_reference(model), model.dtype
        else:
            if base not in copies:
                options = {"fast-float32": "float32", "fast": "auto"}
                copies[base] = model if base == "exact" else optimise(model, dtype=options[base])
            encode, features, dtype = *_ours(copies[base]), copies[base].dtype
        found.append(Way(name, encode, features, dtype, keeps_heap=heap == "heap"))
    return found


def _reference(model: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[Tensor, ...]]]:
    backbone = model.backbone
    scale = 1.0 if backbone.config.latent_scaling == "none" else backbone.vae.config.scaling_factor

    def features(latents: Tensor) -> tuple[Tensor, ...]:
        text = model.adapter(model.class_embeddings.expand(len(latents), -1, -1))
        maps, attention = reference_way.features(backbone.unet, latents, text, timestep=backbone.config.timestep)
        return (*maps, *attention)

    return lambda images: reference_way.encode(backbone.vae, images) * scale, features


def _ours(model: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[Tensor, ...]]]:
    def features(latents: Tensor) -> tuple[Tensor, ...]:
        text = model.prepared_text.layers if model.prepared_text else model.adapter(model.class_embeddings[None])
        found: Features = model.backbone.features(latents, text)
        return (*found.maps, *(found.attention[stride] for stride in sorted(found.attention)))

    return model.backbone.encode, features


@torch.no_grad()
def time_way(way: Way, images: Tensor) -> dict[str, float]:
    """CPU and wall seconds of each part, once."""
    images = images.to(way.dtype)
    marks = [(time.process_time(), time.perf_counter())]
    latents = way.encode(images)
    marks.append((time.process_time(), time.perf_counter()))
    way.features(latents)
    marks.append((time.process_time(), time.perf_counter()))
    seconds = {}
    for part, before, after in zip(PARTS, marks, marks[1:], strict=False):
        seconds[f"{part}_cpu_s"], seconds[f"{part}_wall_s"] = after[0] - before[0], after[1] - before[1]
    seconds["cpu_s"], seconds["wall_s"] = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
    return seconds


@torch.no_grad()
def peak_mib(run: Callable[[], Any]) -> float:
    """Most memory that torch has allocated at once while `run` runs, over what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    del result
    return peak / 2**20


@torch.no_grad()
def errors(way: Way, images: Tensor, wanted: tuple[Tensor, ...]) -> list[float]:
    """Relative L2 error of each feature and attention map."""
    got = way.features(way.encode(images.to(way.dtype)))
    return [float((ours.float() - theirs).norm() / theirs.norm()) for ours, theirs in zip(got, wanted, strict=True)]


@torch.no_grad()
def peak_gflops(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Most that a square matrix product reaches, in 1e9 operations a CPU second."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        left @ right
        seconds.append(time.process_time() - began)
    return 2 * size**3 / min(seconds) / 1e9


def count_gflop(model: Any, images: Tensor) -> dict[str, float]:
    """Operations (2 a multiply-add) of each part in the exact way, counted on tensors without data."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from vpd.loading import build_model as build_empty

    empty, counts = build_empty(model.config).eval(), {}
    encode, features = _ours(empty)
    latents = torch.empty(1, 4, images.shape[-2] // 8, images.shape[-1] // 8, device="meta")
    for part, run in ((PARTS[0], lambda: encode(images.to("meta"))), (PARTS[1], lambda: features(latents))):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        counts[part] = counter.get_total_flops() / 1e9
    return counts


def summarise(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, least and most of each figure."""
    return {
        key: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for key in runs[0]
        if (values := [run[key] for run in runs])
    }


def measure(model: Any, *, px: int, rounds: int, wanted: list[str], with_memory: bool = True) -> dict[str, Any]:
    """Everything about these ways, as a dictionary for JSON.

    Args:
        model: A segmentation model in float32.
        px: Side of the image, pixels.
        rounds: Times that each way is timed, after one that is not.
        wanted: Names for `find_ways`; ratios are to the first.
        with_memory: Whether to measure memory too.
    """
    ways = find_ways(model.eval(), wanted)
    images = torch.rand(1, 3, px, px, generator=torch.manual_seed(0)) * 2 - 1
    gflop = count_gflop(model, images)
    reference = Way("reference", *_reference(model), model.dtype, keeps_heap=False)
    with torch.no_grad():
        exact = reference.features(reference.encode(images))
    result: dict[str, Any] = {"gflop": gflop, "peak_gflops_per_cpu_s": {}, "ways": {}}
    for dtype in (torch.float32, fast_dtype(torch.device("cpu"))):
        result["peak_gflops_per_cpu_s"][str(dtype)] = peak_gflops(dtype)
    for way in ways:
        facts: dict[str, Any] = {"errors": errors(way, images, exact)}
        if with_memory and not way.keeps_heap:
            latents = reference.encode(images).to(way.dtype)
            facts["encoder_peak_mib"] = peak_mib(lambda way=way: way.encode(images.to(way.dtype)))
            facts["unet_peak_mib"] = peak_mib(lambda way=way, latents=latents: way.features(latents))
        result["ways"][way.name] = facts
    runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for kept in (False, True):
            keep_heap() if kept else free_heap()
            chosen = [way for way in ways if way.keeps_heap == kept]
            for way in chosen if kept else ():  # the heap grows to what each way needs
                time_way(way, images)
            for way in chosen:
                runs[way.name].append(time_way(way, images))
                print(
                    f"{way.name:<20} {runs[way.name][-1]['cpu_s']:.2f} CPU s, load {os.getloadavg()[0]:.1f}", flush=True
                )
    peaks = result["peak_gflops_per_cpu_s"]
    first = statistics.median(run["cpu_s"] for run in runs[ways[0].name])
    for way in ways:
        facts = result["ways"][way.name]
        facts["seconds"] = summarise(runs[way.name])
        cpu_s = facts["seconds"]["cpu_s"]["median"]
        facts["times_faster"] = first / cpu_s
        facts["share_of_peak"] = sum(gflop.values()) / cpu_s / peaks[str(way.dtype)]
    return result


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": f"{names[0]} ({torch.backends.cpu.get_cpu_capability()})" if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0],
    }


def table(result: dict[str, Any]) -> str:
    """The ways as Markdown."""
    lines = [
        "| way | CPU s (min to max) | encoder | UNet | times faster | share of peak | largest error "
        "| encoder, UNet peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in result["ways"].items():
        seconds = facts["seconds"]
        memory = [facts.get(f"{part}_peak_mib") for part in PARTS]
        lines.append(
            f"| {name} | {seconds['cpu_s']['median']:.2f} ({seconds['cpu_s']['min']:.2f} to "
            f"{seconds['cpu_s']['max']:.2f}) | {seconds['encoder_cpu_s']['median']:.2f} "
            f"| {seconds['unet_cpu_s']['median']:.2f} | {facts['times_faster']:.2f} | {facts['share_of_peak']:.0%} "
            f"| {max(facts['errors']):.1e} | {', '.join('' if mib is None else f'{mib:.0f}' for mib in memory)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    ways = ["reference", "reference+heap", "exact", "exact+heap", "fast-float32+heap", "fast", "fast+heap"]
    parser.add_argument("--ways", nargs="*", default=ways)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    machine = describe_machine()
    model = build_model(given.size, given.classes)
    result = measure(model, px=given.px, rounds=given.rounds, wanted=given.ways, with_memory=not given.no_memory)
    result = {"size": given.size, "px": given.px, "classes": given.classes, "machine": machine, **result}
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
