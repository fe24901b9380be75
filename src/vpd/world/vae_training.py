"""Training of a small autoencoder on any stream of images: resumable, the same for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from vpd.loading import has_fast_bf16
from vpd.world.autoencoder import autoencoder_loss
from vpd.world.muon import Muon
from vpd.world.run_state import restore_run, save_run

WARMUP_STEPS = 50


@dataclass
class AutoencoderRun:
    """An autoencoder in training and how far it is."""

    vae: AutoencoderKL
    seed: int = 0
    images: str = ""
    """What it is trained on; a checkpoint of other images is not taken."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent on them."""
    optimiser: Muon = field(init=False)

    def __post_init__(self) -> None:
        self.vae.to(memory_format=torch.channels_last)
        self.optimiser = Muon(self.vae)

    def share_done(self, steps: int | None, minutes: float | None) -> float:
        """How much of the training is done, by whichever of the limits is nearer; 1 = all."""
        by_steps = self.step / steps if steps else 0.0
        by_time = self.seconds / (60 * minutes) if minutes else 0.0
        return max(by_steps, by_time)

    def save(self, path: str | Path) -> None:
        """Write weights, optimiser state and progress to one file, atomically."""
        save_run(
            path, {"vae": self.vae}, self.optimiser, {"step": self.step, "seconds": self.seconds, **self._identity()}
        )

    def restore(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            UsageError: If the file is damaged, or of a run with another seed, other images or another architecture.
        """
        progress = restore_run(path, {"vae": self.vae}, self.optimiser, self._identity())
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])

    def _identity(self) -> dict[str, object]:
        return {"seed": self.seed, "images": self.images}


def train_autoencoder(
    run: AutoencoderRun,
    batches: Iterator[Tensor],
    *,
    steps: int | None = None,
    minutes: float | None = None,
    learning_rate: float = 3e-3,
    bf16: bool | None = None,
    go_on: Callable[[AutoencoderRun, float], bool] | None = None,
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
        bf16: Compute in bfloat16 where autocast does; by default where the device is built for it.
        go_on: Called after each step with the run and the loss; false ends the training there.

    Raises:
        ValueError: If neither `steps` nor `minutes` is given.
    """
    if steps is None and minutes is None:
        raise ValueError("Neither steps nor minutes given: say how long to train.")
    device = next(run.vae.parameters()).device
    use_bf16 = has_fast_bf16(device) if bf16 is None else bf16
    run.vae.train()
    while (done := run.share_done(steps, minutes)) < 1:
        begin = time.perf_counter()
        rate = learning_rate * min(1, (run.step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        images = next(batches).to(device, memory_format=torch.channels_last)
        noise = torch.Generator().manual_seed(run.seed * 1_000_003 + run.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            loss = autoencoder_loss(run.vae, images, noise)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.vae.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        run.seconds += time.perf_counter() - begin
        if go_on and not go_on(run, float(loss.detach())):
            break
    run.vae.eval()
