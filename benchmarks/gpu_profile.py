"""Where a pass spends a GPU's time, by kind of kernel, and which operations meet maps in two memory orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode

from vpd.bench.machine import now

_KINDS = (
    ("layout copies", ("nchwtonhwc", "nhwctonchw")),
    ("attention", ("attention", "flash", "fmha", "softmax")),
    ("group norm", ("group_norm", "groupnorm", "rowwisemoments")),
    ("convolutions", ("convolution", "conv2d", "fprop", "implicit_gemm", "cudnn")),
    ("layer norm", ("layer_norm", "layernorm")),
    ("linear layers", ("addmm", "aten::mm", "bmm", "linear", "gemm", "nvjet", "cutlass")),
    ("copies", ("copy", "clone", "contiguous", "memcpy", "_to_copy", "cat")),
)
"""Kind of work -> parts of the names of operators and kernels, the first that fits."""
_OWN = {"add_maps", "part_statistics", "combine", "apply", "part_gradients", "combine_gradients", "apply_gradients"}
"""Kernels of `vpd.backbones.group_norm_kernel`, which no operator launches."""


def times_by_group(run: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Milliseconds and launches of each kind of work in one run, and the longest kernels.

    On a GPU of its kernels, by the operator that launched them and their own names; elsewhere of operators.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        now(device)
    times: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    for operator, kernel, microseconds, count in _rows(profiler, device):
        kind = kind_of(operator, kernel)
        times[kind] += microseconds
        launches[kind] += count
        longest[f"{operator} {kernel}".strip()[:120]] += microseconds
    return {
        "total_ms": sum(times.values()) / 1000,
        "launches": sum(launches.values()),
        "ms": {kind: value / 1000 for kind, value in times.most_common()},
        "launches_by_kind": dict(launches.most_common()),
        "longest_ms": {name: value / 1000 for name, value in longest.most_common(12)},
    }


def kind_of(operator: str, kernel: str) -> str:
    """Kind of work of a kernel that an operator launched."""
    if kernel in _OWN:
        return "group norm"
    for name in (kernel.lower(), operator.lower()) if "nchw" in kernel.lower() else (operator.lower(), kernel.lower()):
        for kind, parts in _KINDS:
            if name and any(part in name for part in parts):
                return kind
    return "elementwise and other"


def _rows(profiler: Any, device: torch.device) -> list[tuple[str, str, float, int]]:
    """Operator, kernel, microseconds, launches."""
    averages = profiler.key_averages()
    if device.type != "cuda":
        return [(average.key, "", average.self_cpu_time_total, average.count) for average in averages]
    rows, known = list[tuple[str, str, float, int]](), Counter[str]()
    for event in profiler.events():
        if event.device_type == DeviceType.CPU:
            for kernel in event.kernels:
                rows.append((event.name, kernel.name, kernel.duration, 1))
                known[kernel.name] += kernel.duration
    for average in averages:  # launched by no operator: Triton's, and what a library starts by itself
        if average.device_type == DeviceType.CUDA and (rest := average.self_device_time_total - known[average.key]) > 1:
            rows.append(("", average.key, rest, average.count))
    return rows


def layout_changes(run: Callable[[], Any]) -> list[str]:
    """Operations whose maps, inputs and outputs, lie in different orders, in one run."""
    with _Audit() as audit:
        run()
    return audit.found


class _Audit(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        results = result if isinstance(result, (list, tuple)) else (result,)
        flat = [value for part in (*args, *results) for value in (part if isinstance(part, (list, tuple)) else [part])]
        maps = [value for value in flat if isinstance(value, Tensor)]
        if len({order for value in maps if (order := _order(value))}) > 1:
            self.found.append(f"{func} {[tuple(value.shape) for value in maps]}")
        return result


def _order(tensor: Tensor) -> str:
    """Order of a map in memory; empty where both are the same, or it is neither."""
    if tensor.dim() != 4 or tensor.shape[1] == 1 or tensor.shape[2] * tensor.shape[3] == 1:
        return ""
    if tensor.is_contiguous():
        return "nchw"
    return "nhwc" if tensor.is_contiguous(memory_format=torch.channels_last) else ""
