"""Training of a small autoencoder: one loop for any stream of images, resumable, the same for the same seed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vpd.errors import UsageError
from vpd.files import atomic_write
from vpd.world.autoencoder import autoencoder_loss

WARMUP_STEPS = 50


@dataclass
class AutoencoderRun:
    """An autoencoder in training and how far it is."""

    vae: AutoencoderKL
    seed: int = 0
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent on them."""
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.vae.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.vae.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=1e-4
        )

    def save(self, path: str | Path) -> None:
        """Write weights, optimiser state and progress to one file, atomically."""
        tensors = {f"vae.{name}": tensor.contiguous() for name, tensor in self.vae.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value.contiguous() for name, value in state.items()}
        progress = {"seed": self.seed, "step": self.step, "seconds": self.seconds}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"run": json.dumps(progress)})

    def restore(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            UsageError: If the file belongs to a run with another seed or another architecture.
        """
        with safe_open(path, "pt") as file:
            progress = json.loads((file.metadata() or {}).get("run", "{}"))
            if progress.get("seed") != self.seed:
                raise UsageError(
                    f"{path} is of a run with seed {progress.get('seed')}, not {self.seed}. "
                    "Give the same seed, or another output folder."
                )
            names = set(file.keys())
            own = self.vae.state_dict()
            fits = all(
                f"vae.{name}" in names and file.get_slice(f"vae.{name}").get_shape() == list(tensor.shape)
                for name, tensor in own.items()
            )
            if not fits:
                raise UsageError(f"{path} is of another architecture. Give another output folder.")
            self.vae.load_state_dict({name: file.get_tensor(f"vae.{name}") for name in own})
            states: dict[int, dict[str, Tensor]] = {}
            for name in names:
                if name.startswith("optimiser."):
                    _, index, part = name.split(".")
                    states.setdefault(int(index), {})[part] = file.get_tensor(name)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": states})
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])


def train_autoencoder(
    run: AutoencoderRun,
    batches: Iterator[Tensor],
    *,
    steps: int | None = None,
    minutes: float | None = None,
    learning_rate: float = 1e-3,
    bf16: bool = True,
    on_step: Callable[[AutoencoderRun, float], None] | None = None,
) -> None:
    """Train until `steps` or `minutes` are done, counted from the run's beginning.

    The learning rate warms up and then falls to zero along a cosine of the share done. With `steps` alone the
    result depends only on seed and batches; with `minutes`, also on the machine's speed.

    Args:
        run: What to train; changed in place.
        batches: Images `(b, 3, H, W)` in [-1, 1], beginning with that of step `run.step`.
        steps: Steps in all.
        minutes: Time in all, whichever ends first.
        learning_rate: Peak rate.
        bf16: Compute in bfloat16 where autocast does.
        on_step: Called after each step with the run and the loss.

    Raises:
        ValueError: If neither `steps` nor `minutes` is given.
    """
    if steps is None and minutes is None:
        raise ValueError("Neither steps nor minutes given: say how long to train.")
    device = next(run.vae.parameters()).device
    run.vae.train()
    while (done := _share_done(run, steps, minutes)) < 1:
        begin = time.perf_counter()
        rate = learning_rate * min(1, (run.step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        images = next(batches).to(device, memory_format=torch.channels_last)
        noise = torch.Generator().manual_seed(run.seed * 1_000_003 + run.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = autoencoder_loss(run.vae, images, noise)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.vae.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        run.seconds += time.perf_counter() - begin
        if on_step:
            on_step(run, float(loss.detach()))
    run.vae.eval()


def _share_done(run: AutoencoderRun, steps: int | None, minutes: float | None) -> float:
    by_steps: Any = run.step / steps if steps else 0.0
    by_time = run.seconds / (60 * minutes) if minutes else 0.0
    return max(by_steps, by_time)
