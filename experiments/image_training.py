"""Training of a small network on any stream of images: resumable, the same for the same seed."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from experiments.run_state import all_weights, restore_run, save_run
from vpd.loading import has_fast_bf16
from vpd.training.muon import Muon

WARMUP_STEPS = 50


class Limits(NamedTuple):
    """How long a run goes on, counted from its beginning, whichever ends first; neither = not said."""

    steps: int | None = None
    minutes: float | None = None


NO_LIMITS = Limits()


@dataclass
class ImageRun(ABC):
    """A network in training and how far it is."""

    network: nn.Module
    seed: int = 0
    images: str = ""
    """What it is trained on; a checkpoint of other images is not taken."""
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent on them."""
    limits: Limits = NO_LIMITS
    """Those that it was last trained with; a checkpoint keeps them, as the learning rate depends on them."""
    optimiser: Muon = field(init=False)
    part: ClassVar[str]
    """What its checkpoints call the network."""
    learning_rate: ClassVar[float] = 3e-3
    """At its peak."""

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = Muon(all_weights(self.network))

    @abstractmethod
    def loss(self, images: Tensor) -> Tensor:
        """Training loss of a step, a scalar, for `(b, 3, H, W)` in [-1, 1]."""

    def share_done(self, limits: Limits | None = None) -> float:
        """How much of the training is done, by whichever of the limits (none = its own) is nearer; 1 = all."""
        steps, minutes = limits or self.limits
        by_steps = self.step / steps if steps else 0.0
        by_time = self.seconds / (60 * minutes) if minutes else 0.0
        return max(by_steps, by_time)

    def save(self, path: str | Path) -> None:
        """Write weights, optimiser state and progress to one file, atomically."""
        progress = {"step": self.step, "seconds": self.seconds, "limits": self.limits, **self.identity()}
        save_run(path, {self.part: self.network}, self.optimiser, progress)

    def restore(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            UsageError: If the file is damaged, or of a run with another seed, other images or another architecture.
        """
        progress = restore_run(path, {self.part: self.network}, self.optimiser, self.identity())
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])
        self.limits = Limits(*progress.get("limits", NO_LIMITS))

    def identity(self) -> dict[str, object]:
        """What a checkpoint must have been made with to be gone on from."""
        return {"seed": self.seed, "images": self.images}


Run = TypeVar("Run", bound=ImageRun)


def train_on_images(
    run: Run,
    batches: Iterator[Tensor],
    *,
    steps: int | None = None,
    minutes: float | None = None,
    bf16: bool | None = None,
    go_on: Callable[[Run, float], bool] | None = None,
) -> None:
    """Train until `steps` or `minutes` are done, counted from the run's beginning.

    The learning rate warms up and then falls to zero along a cosine of the share done. With `steps` alone the
    result depends only on seed and batches; with `minutes`, also on the machine's speed.

    Args:
        run: What to train; changed in place.
        batches: Images `(b, 3, H, W)` in [-1, 1], beginning with that of step `run.step`.
        steps: Steps in all.
        minutes: Time in all, whichever ends first.
        bf16: Compute in bfloat16 where autocast does; by default where the device is built for it.
        go_on: Called after each step with the run and the loss; false ends the training there.

    Raises:
        ValueError: If neither `steps` nor `minutes` is given.
    """
    if steps is None and minutes is None:
        raise ValueError("Neither steps nor minutes given: say how long to train.")
    run.limits = Limits(steps, minutes)
    device = next(run.network.parameters()).device
    use_bf16 = has_fast_bf16(device) if bf16 is None else bf16
    run.network.train()
    while (done := run.share_done()) < 1:
        begin = time.perf_counter()
        rate = run.learning_rate * min(1, (run.step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        images = next(batches).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            loss = run.loss(images)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        run.seconds += time.perf_counter() - begin
        if go_on and not go_on(run, float(loss.detach())):
            break
    run.network.eval()
