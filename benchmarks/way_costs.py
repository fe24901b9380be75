"""What is measured of a way: seconds, memory, operations, errors."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from way import HEAP, Way
from ways import find_ways

from vpd.bench.machine import clock_of, now, peak_bytes, since
from vpd.inference.heap import free_heap, keep_heap
from vpd.loading import build_model
from vpd.tasks.model import PerceptionModel
from vpd.training import auto_accumulate

PARTS = ("encoder", "unet")
CLOCKS = ("cpu_s", "wall_s")
_WAYS_THAT_COUNT = {"exported": "exact", "compiled": "fast"}  # whose operations are the same


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
    began = now(way.device)
    latents = way.encode(images)
    of_encoder = since(began, way.device)
    way.features(latents, prepared)
    of_both = since(began, way.device)
    seconds = {f"encoder_{clock}": of_encoder[clock] for clock in CLOCKS}
    seconds |= {f"unet_{clock}": of_both[clock] - of_encoder[clock] for clock in CLOCKS}
    return {**seconds, **of_both}


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
        before = auto_accumulate.restart_peak()
        way.features(way.encode(images), prepared)
        return {} if before is None else {"process": (auto_accumulate.peak_bytes() - before) / 2**20}
    if way.device.type not in ("cpu", "cuda"):
        return {}
    latents = way.encode(images)
    runs = (lambda: way.encode(images), lambda: way.features(latents, prepared))
    return {part: (peak_bytes(run, way.device) or 0) / 2**20 for part, run in zip(PARTS, runs, strict=True)}


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
