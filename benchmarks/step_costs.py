"""What a training step costs, for the benchmarks beside it: seconds of its three parts, and memory over the weights.

It is the trainer's own step that is measured, by an `Accelerator` that takes the time between the parts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vpd.inference.cache import FrozenCaches
from vpd.tensors import Batch
from vpd.training.auto_accumulate import peak_bytes, restart_peak
from vpd.training.config import TrainConfig
from vpd.training.feed import Feed
from vpd.training.step import Stepper

PARTS = ("forward", "backward", "optimiser")


class TimingAccelerator(Accelerator):
    """Notes when forward and backward pass end, and the most memory until then."""

    def __init__(self) -> None:
        super().__init__(mixed_precision="no", cpu=not torch.cuda.is_available())
        self.marks: dict[str, float] = {}
        self.peak_mib = 0.0

    def prepare(self, module: Any) -> Any:
        """Let what computes the loss tell when it begins and ends."""
        prepared = super().prepare(module)
        prepared.register_forward_pre_hook(lambda *_: self.mark("began"))
        prepared.register_forward_hook(lambda *_: self.mark("forward"))
        return prepared

    def backward(self, loss: torch.Tensor) -> None:
        """The backward pass, and what was taken at most by its end."""
        super().backward(loss)
        self.mark("backward")
        self.peak_mib = most_mib(self.device)

    def mark(self, name: str) -> None:
        """Note the time."""
        self.marks[name] = now(self.device)


def measure_steps(
    model: Any, config: TrainConfig, batch: Batch, *, steps: int, caches: FrozenCaches | None = None
) -> dict[str, Any]:
    """Train for one step that does not count and some that do.

    Args:
        model: A task model with low-rank layers where the mode needs them.
        config: How to train.
        batch: What to train on, again and again.
        steps: Steps that count.
        caches: Where results of the frozen parts are kept.

    Returns:
        `seconds` of each part and of the whole in the quickest step; `peak_mib` of forward and backward pass over
        weights and optimiser, the least of the steps; `run_peak_mib` of all steps, the optimiser's state included.
    """
    accelerator = TimingAccelerator()
    device = accelerator.device
    stepper = Stepper(model.to(device), config, accelerator, caches)
    feed, runs, first_mib = Feed(repeat(batch), device), list[dict[str, float]](), start_mib(device)
    for step in range(steps + 1):
        before = start_mib(device)
        taken = stepper.take(step, 1e-6, feed)
        accelerator.mark("optimiser")
        names = ["began", *PARTS]
        run = {
            name: accelerator.marks[name] - accelerator.marks[last] for last, name in zip(names, PARTS, strict=False)
        }
        run |= {"peak_mib": accelerator.peak_mib - before, "run_peak_mib": most_mib(device) - first_mib}
        run |= {"loss": taken.loss, "step": accelerator.marks["optimiser"] - accelerator.marks["began"]}
        runs.append(run)
    counted = runs[1:] or runs
    quickest = min(counted, key=lambda run: run["step"])
    return {
        "seconds": {name: quickest[name] for name in (*PARTS, "step")},
        "peak_mib": min(run["peak_mib"] for run in counted),
        "run_peak_mib": max(run["run_peak_mib"] for run in runs),
        "weights_mib": sum(value.nbytes for value in (*model.parameters(), *model.buffers())) / 2**20,
        "trained": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "runs": runs,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def now(device: torch.device) -> float:
    """Seconds: of a GPU's wall clock, or of this process on all CPUs, so that a busy machine does not count."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def start_mib(device: torch.device) -> float:
    """Forget the largest memory so far; returns what is taken now."""
    if device.type == "cpu":
        return (restart_peak() or 0) / 2**20
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def most_mib(device: torch.device) -> float:
    """Largest memory since then."""
    return (peak_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated()) / 2**20


def each_in_a_process(script: str, runs: Sequence[Sequence[str]], arguments: Sequence[str]) -> list[dict[str, Any]]:
    """What a script prints as its last line, JSON, for each run.

    Args:
        script: Gets `arguments` and then `--only` with a run's words.
        runs: Words of each.
        arguments: Of all.
    """
    results = []
    for run in runs:
        command = [sys.executable, script, *arguments, "--only", *run]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{Path(script).name}, {' '.join(run)}: status {done.returncode}\n{done.stderr[-2000:]}")
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(results[-1]), flush=True)
    return results
