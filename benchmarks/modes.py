"""What the fine-tuning modes cost: memory over the weights, and seconds a training step, each in a process of its own.

    python benchmarks/modes.py --size tiny --px 64                     # half a minute: does it run
    python benchmarks/modes.py --size sd15 --px 256 --dtype bfloat16   # Stable Diffusion 1.5's size, random weights
    python benchmarks/modes.py --size sd15 --px 512 --batch 4 --dtype autocast        # on a GPU, where there is one

Prints a line of JSON for each run, then a table with ratios to the first. Time is CPU time of all threads on a CPU,
so that a busy machine does not count, and wall time on a GPU. `--dtype autocast` is what `-s precision=bf16` does:
float32 weights. `bfloat16` has weights, gradients and optimiser in it too, to fit into less memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import repeat
from pathlib import Path
from typing import Any

MODES = ("full", "lora", "frozen", "head")


def measure(mode: str, checkpointing: bool, given: argparse.Namespace) -> dict[str, Any]:
    """Steps of one kind, in this process."""
    import torch

    from vpd.benchmark.random_models import random_model
    from vpd.config import LoraSettings
    from vpd.training.progress import Interval
    from vpd.training.settings import resolve_config
    from vpd.training.stepping import Stepper, find_processes
    from vpd.types import Batch

    changes = {
        "model": "random",
        "data": {"root": "random"},
        "mode": mode,
        "gradient_checkpointing": checkpointing,
        "crop_px": given.px,
        "batch_size": given.batch,
        "optimiser": given.optimiser,
        "steps": 9,
        "precision": "bf16" if given.dtype == "autocast" else "no",
        "on_bad_loss": "skip",
    }
    config = resolve_config("segment", changes)
    dtype = torch.bfloat16 if given.dtype == "bfloat16" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # or the memory of larger weights would be counted
    model = random_model(given.size, given.classes)
    if mode == "lora":
        model.add_lora(LoraSettings(rank=given.rank))
    torch.set_default_dtype(torch.float32)
    accelerator = find_processes()
    on_gpu = accelerator.device.type == "cuda"
    images = (torch.rand(given.batch, 3, given.px, given.px) * 2 - 1).to(dtype)
    labels = torch.randint(given.classes, (given.batch, given.px, given.px))
    batches = repeat(Batch(images=images, names=["random"] * given.batch, labels=labels))
    stepper = Stepper(model.to(accelerator.device), config, accelerator)
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    seconds, before = [], reset_peak(on_gpu)
    for step in range(given.steps + 1):
        began = now(on_gpu)
        stepper.take(step, 1e-6, batches, Interval())
        seconds.append(now(on_gpu) - began)
    return {
        "mode": mode,
        "gradient_checkpointing": checkpointing,
        "trained": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "weights_mib": weights / 2**20,
        "peak_over_weights_mib": (peak_bytes(on_gpu) - before) / 2**20,
        "seconds": seconds[1:],  # the first makes the optimiser's state
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def now(on_gpu: bool) -> float:
    """Seconds: of the GPU's wall clock, or of this process on all CPUs."""
    if not on_gpu:
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak(on_gpu: bool) -> int:
    """Forget the largest memory so far; returns what is taken now, bytes."""
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes(on_gpu: bool) -> int:
    """Largest memory since then."""
    if on_gpu:
        import torch

        return torch.cuda.max_memory_allocated()
    return status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """A size that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown, with ratios to the first."""
    lines = [
        "| mode | checkpointing | trained, M | gradients and AdamW in float32, GB (by count) "
        "| peak over weights, MiB | ratio | s a step | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first = runs[0]
    for run in runs:
        peak, seconds = run["peak_over_weights_mib"], min(run["seconds"])
        lines.append(
            f"| {run['mode']} | {'yes' if run['gradient_checkpointing'] else 'no'} | {run['trained'] / 1e6:.1f} "
            f"| {run['trained'] * 12 / 1e9:.2f} | {peak:.0f} | {peak / first['peak_over_weights_mib']:.2f} "
            f"| {seconds:.2f} | {seconds / min(first['seconds']):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed, after one that is not")
    parser.add_argument("--dtype", choices=["float32", "autocast", "bfloat16"], default="float32")
    parser.add_argument("--optimiser", choices=["adamw", "adamw_8bit", "sgd"], default="adamw")
    parser.add_argument("--modes", nargs="*", default=MODES)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only[0], given.only[1] == "True", given)))
        return
    runs = []
    for mode in given.modes:
        for checkpointing in (False, True)[: 1 if mode == "head" else 2]:  # head: there is nothing to recompute
            command = [sys.executable, __file__, *sys.argv[1:], "--only", mode, str(checkpointing)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{mode}, checkpointing {checkpointing}: status {done.returncode}\n{done.stderr[-2000:]}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(runs[-1]), flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
