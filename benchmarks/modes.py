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
import sys
from typing import Any

import torch
from random_models import random_model
from step_costs import each_in_a_process, measure_steps

from vpd.config import LoraSettings
from vpd.tensors import Batch
from vpd.training.settings import resolve_config

MODES = ("full", "lora", "frozen", "head")


def measure(mode: str, checkpointing: bool, given: argparse.Namespace) -> dict[str, Any]:
    """Steps of one kind, in this process."""
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
    dtype = torch.bfloat16 if given.dtype == "bfloat16" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # or the memory of larger weights would be counted
    model = random_model(given.size, given.classes)
    if mode == "lora":
        model.add_lora(LoraSettings(rank=given.rank))
    torch.set_default_dtype(torch.float32)
    batch = Batch(
        images=(torch.rand(given.batch, 3, given.px, given.px) * 2 - 1).to(dtype),
        names=["random"] * given.batch,
        labels=torch.randint(given.classes, (given.batch, given.px, given.px)),
    )
    measured = measure_steps(model, resolve_config("segment", changes), batch, steps=given.steps)
    return {"mode": mode, "gradient_checkpointing": checkpointing, **measured}


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown, with ratios to the first."""
    lines = [
        "| mode | checkpointing | trained, M | gradients and AdamW in float32, GB (by count) "
        "| peak over weights, MiB | ratio | s a step | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first = runs[0]
    for run in runs:
        peak, seconds = run["run_peak_mib"], run["seconds"]["step"]
        lines.append(
            f"| {run['mode']} | {'yes' if run['gradient_checkpointing'] else 'no'} | {run['trained'] / 1e6:.1f} "
            f"| {run['trained'] * 12 / 1e9:.2f} | {peak:.0f} | {peak / first['run_peak_mib']:.2f} "
            f"| {seconds:.2f} | {seconds / first['seconds']['step']:.2f} |"
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
    runs = [
        (mode, str(checkpointing))
        for mode in given.modes
        for checkpointing in (False, True)[: 1 if mode == "head" else 2]  # head: there is nothing to recompute
    ]
    print(table(each_in_a_process(__file__, runs, sys.argv[1:])))


if __name__ == "__main__":
    main()
