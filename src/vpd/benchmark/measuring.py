"""What is measured of a way: seconds, memory, operations, errors; and what this machine reaches at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vpd.benchmark.ways import HEAP, Way, find_ways
from vpd.inference.heap import free_heap, keep_heap
from vpd.loading import build_model
from vpd.tasks.model import PerceptionModel
from vpd.training.memory import peak_bytes, restart_peak

PARTS = ("encoder", "unet")
_WAYS_THAT_COUNT = {"exported": "exact", "compiled": "fast", "int8": "fast"}  # whose operations are the same


def clock_of(device: torch.device) -> str:
    """The figure that ways are compared by: CPU seconds of all threads, so that a busy machine does not count."""
    return "cpu_s" if device.type == "cpu" else "wall_s"


def time_rounds(
    ways: list[Way], images: Tensor, text: Tensor, rounds: int, *, on_round: Callable[[str, float], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Median, least and most of the seconds of each way, which take turns so that other load meets all alike.

    Args:
        ways: What is timed.
        images: `(b, 3, H, W)` in [-1, 1], float32.
        text: Embeddings `(1, k, d)`, float32.
        rounds: Times that each is timed, after one that is not.
        on_round: Told each way's name and seconds.
    """
    runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for kept in (False, True):
            chosen = [way for way in ways if way.keeps_heap == kept]
            if not chosen:
                continue
            keep_heap() if kept else free_heap()
            if kept or not number:  # kernels are chosen; the heap grows to what each way needs
                for way in chosen:
                    _time_once(way, images, text)
            for way in chosen:
                seconds = _time_once(way, images, text)
                runs[way.name].append(seconds)
                on_round(way.name, seconds[clock_of(way.device)])
    free_heap()
    return {name: _summary(found) for name, found in runs.items()}


@torch.no_grad()
def _time_once(way: Way, images: Tensor, text: Tensor) -> dict[str, float]:
    """CPU and wall seconds of each part and of both."""
    images, prepared = images.to(way.device, way.dtype), way.prepare(text)
    marks = [_now(way.device)]
    latents = way.encode(images)
    marks.append(_now(way.device))
    way.features(latents, prepared)
    marks.append(_now(way.device))
    seconds = {}
    for prefix, before, after in (
        ("encoder_", marks[0], marks[1]),
        ("unet_", marks[1], marks[2]),
        ("", marks[0], marks[2]),
    ):
        seconds[f"{prefix}cpu_s"], seconds[f"{prefix}wall_s"] = after[0] - before[0], after[1] - before[1]
    return seconds


def _now(device: torch.device) -> tuple[float, float]:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()  # cuda, mps, xpu
    return time.process_time(), time.perf_counter()


def _summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    columns = {key: [run[key] for run in runs] for key in runs[0]}
    return {
        key: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for key, values in columns.items()
    }


@torch.no_grad()
def feature_errors(way: Way, images: Tensor, text: Tensor, wanted: tuple[Tensor, ...]) -> list[float]:
    """Relative L2 error of each feature and attention map."""
    got = way.features(way.encode(images.to(way.device, way.dtype)), way.prepare(text))
    return [float((ours.float() - theirs).norm() / theirs.norm()) for ours, theirs in zip(got, wanted, strict=True)]


@torch.no_grad()
def peak_mib(way: Way, images: Tensor, text: Tensor) -> dict[str, float]:
    """Most memory of each part over weights and inputs, MiB; of a way outside torch, of its process in the whole."""
    prepared, images = way.prepare(text), images.to(way.device, way.dtype)
    if not way.is_torch:
        before = restart_peak()
        way.features(way.encode(images), prepared)
        return {} if before is None else {"process": (peak_bytes() - before) / 2**20}
    if way.device.type not in ("cpu", "cuda"):
        return {}
    latents = way.encode(images)
    peak = _cuda_peak if way.device.type == "cuda" else _cpu_peak
    runs = (lambda: way.encode(images), lambda: way.features(latents, prepared))
    return {part: peak(run) / 2**20 for part, run in zip(PARTS, runs, strict=True)}


def _cpu_peak(run: Callable[[], Any]) -> int:
    """Bytes that torch has allocated at once at most while `run` runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    del result
    return peak


def _cuda_peak(run: Callable[[], Any]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


@torch.no_grad()
def machine_peaks(device: torch.device, dtype: torch.dtype, *, size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """Most that this machine reaches, in 1e9 operations a second of `clock_of`.

    Args:
        device: Of the machine.
        dtype: Of weights and maps.
        size: Of the square matrix product.
        repeats: Tries, of which the best counts.

    Returns:
        `matrix`, and `convolution`: 3x3 with a quarter of the channels at a 64 x 64 map.
    """
    channels = size // 4
    order = torch.preserve_format if dtype == torch.float32 else torch.channels_last
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype=dtype, memory_format=order)
    hidden = torch.randn(1, channels, 64, 64, device=device).to(dtype=dtype, memory_format=order)
    works: dict[str, tuple[float, Callable[[], Any]]] = {
        "matrix": (2 * size**3, lambda: left @ right),
        "convolution": (2 * 9 * channels**2 * 64**2, lambda: F.conv2d(hidden, weight, padding=1)),
    }
    column, peaks = 0 if clock_of(device) == "cpu_s" else 1, {}
    for name, (operations, run) in works.items():
        seconds = []
        for _ in range(repeats):
            began = _now(device)[column]
            run()
            seconds.append(_now(device)[column] - began)
        peaks[name] = operations / max(min(seconds), 1e-9) / 1e9
    return peaks


@torch.no_grad()
def count_gflop(
    model: PerceptionModel, names: list[str], *, px: int, prompts: int, batch: int = 1
) -> dict[str, dict[str, float]]:
    """Operations (2 a multiply-add) of each way and part, 1e9, counted on tensors without data.

    Those of attention are counted whatever kernel does it. What `vpd.optimise` does once for fixed prompts is not
    counted; an exported graph counts as `exact`, which does the same.
    """
    empty = build_model(model.config).eval()
    bases = {name: name.removesuffix(HEAP) for name in names}
    counting = {name: _WAYS_THAT_COUNT.get(base, base) for name, base in bases.items()}
    ways, _ = find_ways(empty, list(dict.fromkeys(counting.values())), Path())
    images = torch.empty(batch, 3, px, px, device="meta")
    text = torch.empty(1, prompts, model.backbone.text_dim, device="meta")
    counts = {}
    for way in ways:
        prepared = way.prepare(text)
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as of_encoder:
                latents = way.encode(images)
            with FlopCounterMode(display=False) as of_unet:
                way.features(latents, prepared)
        counts[way.name] = {
            part: counter.get_total_flops() / 1e9 for part, counter in zip(PARTS, (of_encoder, of_unet), strict=True)
        }
    return {name: counts[base] for name, base in counting.items()}
