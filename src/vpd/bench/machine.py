"""The machine that figures depend on: what it is, its clocks and memory, and what it reaches at most."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
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
    """What the figures depend on; `gpu` where the device is one of CUDA's."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    name = re.search(r"model name\s*: *(.*\S)", facts)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": f"{name[1] if name else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        **({"gpu": describe_gpu(device)} if device.type == "cuda" else {}),
    }


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """Card, driver and libraries; none where one cannot be told."""
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "driver": driver_version(),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton_version(),
        "tf32_convolutions": uses_tf32(torch.backends.cudnn),
        "tf32_products": uses_tf32(torch.backends.cuda.matmul),
    }


def uses_tf32(backend: Any) -> bool | None:
    """Whether float32 is computed with fewer digits; none where torch was told in a way that it cannot tell back."""
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:
        return None


def driver_version(told: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Version of NVIDIA's driver, as the system or `nvidia-smi` tells it."""
    if told.is_file() and (found := re.search(r"Module.*?(\d+\.\d+(\.\d+)?)", told.read_text(errors="replace"))):
        return found[1]
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(answer.stdout.split()), None) if answer.returncode == 0 else None


def triton_version() -> str | None:
    """Version of Triton, whichever package brought it; it is not imported."""
    for name in ("triton", "pytorch-triton", "triton-windows"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


@torch.no_grad()
def machine_peaks(
    device: torch.device, dtype: torch.dtype, *, size: int | None = None, repeats: int | None = None
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
    repeats = repeats or (20 if device.type == "cuda" else 5)
    for name, (operations, run) in works.items():
        seconds = []
        for _ in range(repeats):  # of a GPU the first few only raise the clock
            began = now(device)
            run()
            seconds.append(since(began, device)[clock_of(device)])
        peaks[name] = operations / max(min(seconds), 1e-9) / 1e9
    return peaks
