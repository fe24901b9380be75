"""The training section of `gpu.py`: optimiser steps of segmentation, as the trainer takes them."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from gpu_setup import CLASSES, Setup, tried
from random_models import random_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vpd.bench.machine import now, since
from vpd.bench.measuring import count_gflop, with_random_weights
from vpd.loading import build_model
from vpd.processes import find_processes
from vpd.tensors import Batch
from vpd.training.feed import Feed
from vpd.training.settings import resolve_config
from vpd.training.step import Stepper

TRAINED = ((4, False), (16, False), (16, True))
"""Batch, and whether the UNet's blocks are computed again."""


def training(setup: Setup, found: dict[str, Any]) -> None:
    """Optimiser steps of segmentation, all weights, bfloat16 autocast."""
    setup.__dict__.pop("exact", None)  # a card has no room for both
    found["gflop_per_image"] = gflop = training_gflop(setup)
    for batch, is_checkpointed in TRAINED:

        def measure(batch: int = batch, is_checkpointed: bool = is_checkpointed) -> dict[str, Any]:
            return time_steps(setup, batch, is_checkpointed, gflop)

        tried(found, f"{batch}{', checkpointed' if is_checkpointed else ''}", measure, setup)


def time_steps(setup: Setup, batch: int, is_checkpointed: bool, gflop: float) -> dict[str, Any]:
    """Seconds of a step, pictures a second, memory, share of the peak."""
    given = {
        "model": "random",
        "data": {"root": "random"},
        "gradient_checkpointing": is_checkpointed,
        "precision": "bf16",
        "channels_last": True,
        "crop_px": setup.px,
        "batch_size": batch,
        "optimiser": "adamw",
        "steps": 100,
        "on_bad_loss": "skip",
    }
    model = with_random_weights(random_config("segment", setup.size, CLASSES), device=setup.device)
    stepper = Stepper(model, resolve_config("segment", given), find_processes())
    labels = torch.randint(CLASSES, (batch, setup.px, setup.px), generator=torch.Generator().manual_seed(2))
    images = setup.images(batch, torch.float32).cpu()
    feed = Feed(repeat(Batch(images=images, names=["random"] * batch, labels=labels)), setup.device)
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
    seconds = []
    for step in range(setup.steps + 3):
        setup.check_time()
        began = now(setup.device)
        stepper.take(step, 1e-6, feed)
        seconds.append(since(began, setup.device)["wall_s"])
    counted = sorted(seconds[3:])
    median = counted[len(counted) // 2]
    peak_gib = torch.cuda.max_memory_allocated(setup.device) / 2**30 if setup.device.type == "cuda" else None
    stepper.close()
    tflops, limit = gflop * batch / median / 1000, setup.peak_tflops()
    share = None if limit is None else tflops / limit
    found = {"ms": 1000 * median, "images_per_s": batch / median, "peak_gib": peak_gib}
    return {**found, "tflop_per_s": tflops, "share_of_peak": share}


@torch.no_grad()
def training_gflop(setup: Setup) -> float:
    """Operations that a step needs for one picture: forward pass, and twice those of what trains."""
    model = build_model(random_config("segment", setup.size, CLASSES)).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.backbone.encode(torch.empty(1, 3, setup.px, setup.px, device="meta"))
    encoder = counter.get_total_flops() / 1e9
    return 3 * (count_gflop(model, px=setup.px) - encoder) + encoder
