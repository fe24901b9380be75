"""The machine that figures depend on: what it is, its clocks and memory, and what it reaches at most."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


def clock_of(device: torch.device) -> str:
    """The figure that times are compared by: CPU seconds of all threads, so that a busy machine does not count."""
    return "cpu_s" if device.type == "cpu" else "wall_s"


def now(device: torch.device) -> dict[str, float]:
    """Both clocks, in seconds, once all work on the device is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()  # cuda, mps, xpu
    return {"cpu_s": time.process_time(), "wall_s": time.perf_counter()}


def since(began: dict[str, float], device: torch.device, times: int = 1) -> dict[str, float]:
    """Seconds that each of so many runs took."""
    ended = now(device)
    return {clock: (ended[clock] - began[clock]) / times for clock in began}


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """Most memory that torch has allocated at once while `run` runs, over what was there; none if it cannot tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    del result  # only now: what it holds is part of the peak
    return peak


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    name = re.search(r"model name\s*: *(.*\S)", facts)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": f"{name[1] if name else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


@torch.no_grad()
def machine_peaks(
    device: torch.device, dtype: torch.dtype, *, size: int | None = None, repeats: int = 5
) -> dict[str, float]:
    """Most that this machine reaches, the best of some tries, in 1e9 operations a second of `clock_of`.

    Returns:
        `matrix`: of square matrices of side `size`; `convolution`: 3x3, a quarter as many channels, 64 x 64 maps.
    """
    size = size or (8192 if device.type == "cuda" else 2048)  # large enough to fill a card for a millisecond
    channels = size // 4
    order = torch.preserve_format if dtype == torch.float32 else torch.channels_last
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype=dtype, memory_format=order)
    hidden = torch.randn(1, channels, 64, 64, device=device).to(dtype=dtype, memory_format=order)
    works: dict[str, tuple[float, Callable[[], Any]]] = {
        "matrix": (2 * size**3, lambda: left @ right),
        "convolution": (2 * 9 * channels**2 * 64**2, lambda: F.conv2d(hidden, weight, padding=1)),
    }
    peaks = {}
    for name, (operations, run) in works.items():
        seconds = []
        for _ in range(repeats):
            began = now(device)
            run()
            seconds.append(since(began, device)[clock_of(device)])
        peaks[name] = operations / max(min(seconds), 1e-9) / 1e9
    return peaks
