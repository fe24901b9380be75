"""One optimiser step: which parameters, at which rate, from which batches."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from vpd.errors import UsageError
from vpd.inference.cache import FrozenCaches
from vpd.loading import aligned
from vpd.tasks.loss_settings import PLAIN
from vpd.tasks.losses import LossSum, mean_loss
from vpd.tasks.model import PerceptionModel
from vpd.tensors import Batch
from vpd.training.checkpoints import Checkpoint, restore_optimiser
from vpd.training.config import TrainConfig
from vpd.training.feed import Feed
from vpd.training.fsdp import Shards, shard
from vpd.training.gradients import Gradients
from vpd.training.optimisers import build_optimiser, freeze_parts, optimiser_groups, set_learning_rate


class LossOf(nn.Module):
    """The whole forward pass of training as one module, so that DDP wraps the computation of the loss.

    Args:
        model: Whom to train; `set_up` for it.
        config: Precision, order of memory, and whether the mean of each batch gets the weight 1, instead of its total
            the weight of its pixels.
        caches: Where results of the frozen parts are kept, if anywhere.
    """

    def __init__(self, model: PerceptionModel, config: TrainConfig, caches: FrozenCaches | None = None) -> None:
        super().__init__()
        self.model, self.caches = model, caches
        self.use_bf16, self.is_mean = config.precision == "bf16", config.loss_reduction == "batch"
        self.options = {} if config.loss == PLAIN else {"loss": config.loss}
        self.order = torch.channels_last if config.channels_last is True else torch.contiguous_format

    def forward(self, batch: Batch) -> LossSum:
        """Total and weight of a batch."""
        batch = replace(batch, images=batch.images.contiguous(memory_format=self.order))
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.use_bf16):
            total, weight = self.model.loss_sum(batch, caches=self.caches, **self.options)
        return (mean_loss(total, weight), torch.ones_like(weight)) if self.is_mean else (total, weight)


@dataclass(frozen=True)
class Step:
    """What came of an optimiser step."""

    loss: float
    """Of the samples of all processes."""
    norm: float
    """Of the gradient, over all processes, before it was clipped."""
    parts: list[tuple[Batch, float]]
    """The batches of this process, each with the total of its loss."""
    has_unreadable: bool = False
    """Whether samples of any process could not be read and were replaced."""
    wait_s: float = 0.0
    """Seconds that the device of this process waited for batches."""

    @property
    def is_bad(self) -> bool:
        """Whether the loss or the gradient is NaN or infinite: the step was not taken. All processes agree."""
        return not (math.isfinite(self.loss) and math.isfinite(self.norm))


class Stepper:
    """Takes optimiser steps.

    Everything random in a step is a function of seed, step and process.

    Args:
        model: Whom to train; moves to the device of `accelerator`.
        config: How to train.
        accelerator: Device and other processes.
        caches: Where results of the frozen parts are kept, if anywhere.

    Raises:
        UsageError: If the recipe's groups cannot be made of the model's parameters, or the mode does not fit it.
    """

    def __init__(
        self,
        model: PerceptionModel,
        config: TrainConfig,
        accelerator: Accelerator,
        caches: FrozenCaches | None = None,
    ) -> None:
        self._config, self._accelerator = config, accelerator
        set_up(model, config)
        is_sharded = config.sharding == "fsdp"
        trained = deepcopy(model) if is_sharded else model.to(accelerator.device)
        for tensor in (*trained.train().parameters(), *trained.buffers()):
            tensor.data = aligned(tensor.data)
        loss_of = LossOf(trained, config, caches)
        if is_sharded:
            shard(loss_of, trained.backbone.unet, accelerator)
        self._optimiser = _new_optimiser(trained, config)
        self._gradients = Gradients(self._optimiser, narrow=has_narrow_gradients(config, accelerator))
        self._buffers = list(trained.buffers()) if config.on_bad_loss == "skip" else []
        self._loss_of: nn.Module = loss_of if is_sharded else accelerator.prepare(loss_of)
        self._shards: Shards | None = None
        self.optimiser = self._optimiser
        """Over the parameters of `model`. With shards, it has its state only within `whole_state`."""
        if is_sharded:
            self.optimiser = _new_optimiser(model, config)
            self._shards = Shards(model, self.optimiser, trained, self._optimiser, accelerator)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Give the optimiser its state of a checkpoint; errors as of `restore_optimiser`."""
        restore_optimiser(checkpoint, self.optimiser)
        if self._shards:
            self._shards.scatter_optimiser()

    def whole_model(self) -> AbstractContextManager[None]:
        """Within it, `model` has the trained weights on all processes; entered by all together. Needed for shards."""
        return self._shards.whole_model() if self._shards else nullcontext()

    def whole_state(self) -> AbstractContextManager[None]:
        """Within it, `model` and `optimiser` are as trained on the first process; entered by all together."""
        return self._shards.whole_state() if self._shards else nullcontext()

    def close(self) -> None:
        """Leave the model to others; no step can be taken after it."""
        self._gradients.close()

    def take(self, step: int, rate: float, feed: Feed) -> Step:
        """Take one step, unless its loss or its gradient is NaN or infinite: then nothing changes.

        The gradient is that of the sum of all totals over the sum of all weights, of all batches and processes. The
        device is waited for once, when all but the optimiser's work was handed to it and the next batch is on its way.

        Args:
            step: Steps taken before.
            rate: Learning rate of a group with scale 1.
            feed: As many batches as `accumulate` says are taken from it.
        """
        torch.manual_seed(step_seed(self._config.seed, step, self._accelerator.process_index))
        set_learning_rate(self._optimiser, rate)
        buffers = [buffer.clone() for buffer in self._buffers]
        drawn: list[Batch] = []
        sums: list[Tensor] = []
        while len(drawn) < self._config.accumulation:
            batch = feed.next()
            drawn.append(batch.read)
            is_last = len(drawn) == self._config.accumulation
            with nullcontext() if is_last else self._accelerator.no_sync(self._loss_of):
                total, weight = self._loss_of(batch.sent)
                self._accelerator.backward(total)
            sums.append(torch.stack([total.detach().float(), weight.float()]))
            del batch, total, weight
            feed.ahead()
        overall = self._over_processes(sums, sum(len(batch.unreadable) for batch in drawn))
        weight_or_one = overall[1] + (overall[1] == 0)
        scale = self._accelerator.num_processes / weight_or_one  # DDP averages over processes
        norm = self._gradients.scale_and_measure(scale).to(overall)
        own = torch.stack(sums)[:, 0].to(overall)
        found = torch.cat([overall, norm[None], own]).tolist()  # waits for the device
        total_sum, weight_sum, unreadable, norm_value, *totals = found
        outcome = Step(
            total_sum / (weight_sum or 1),
            norm_value,
            list(zip(drawn, totals, strict=True)),
            has_unreadable=unreadable > 0,
            wait_s=feed.waited_s(),
        )
        if outcome.is_bad:
            for buffer, before in zip(self._buffers, buffers, strict=True):
                buffer.copy_(before)
        else:
            self._gradients.step(self._config.clip_norm)
        self._gradients.clear()
        return outcome

    def _over_processes(self, sums: list[Tensor], unreadable: int) -> Tensor:
        """Total, weight and number of unreadable samples over all batches and processes, `(3,)`, on the device."""
        exact = torch.float32 if sums[0].device.type == "mps" else torch.float64
        own = reduce(torch.add, [part.to(exact) for part in sums])
        values = torch.cat([own, own.new_full((1,), unreadable)])
        if self._accelerator.num_processes == 1:
            return values
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed


def set_up(model: Any, config: TrainConfig) -> None:
    """Make of a model what the settings want to train: what of it trains, how it runs, and the order of its memory."""
    freeze_parts(model, config.mode)
    model.backbone.gradient_checkpointing = config.gradient_checkpointing
    if config.channels_last is True:
        model.to(memory_format=torch.channels_last)
    if config.compile == "regional":
        model.backbone.compile_blocks()
    elif config.compile:
        model.backbone.compile()


def micro_batch_size(config: TrainConfig, processes: int) -> int:
    """Samples that one process takes through the network at a time.

    Raises:
        UsageError: If the samples of a step cannot be shared out evenly.
    """
    size, rest = divmod(config.batch_size, config.accumulation * processes)
    if rest:
        raise UsageError(
            f"batch_size={config.batch_size} must be a multiple of accumulate={config.accumulation} times "
            f"{processes} processes: it counts the samples of one step over all of them."
        )
    return size


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random that a process does in a step, so that a resumed run repeats it."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def has_narrow_gradients(config: TrainConfig, accelerator: Accelerator) -> bool:
    """Whether gradients are kept in bfloat16: where they have no more digits, which takes half the memory."""
    return config.precision == "bf16" and config.accumulation == 1 and accelerator.num_processes == 1


def _new_optimiser(model: PerceptionModel, config: TrainConfig) -> Optimizer:
    return build_optimiser(optimiser_groups(model, config), kind=config.optimiser, momentum=config.momentum)
