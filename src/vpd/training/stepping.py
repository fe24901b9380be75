"""One optimiser step: which parameters, at which rate, from which batches."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vpd.errors import UsageError
from vpd.reference.keys import published_names
from vpd.tasks.model import PerceptionModel
from vpd.training.config import TrainConfig
from vpd.training.optimisers import build_optimiser, parameter_groups, set_learning_rate
from vpd.training.plan import step_seed
from vpd.training.progress import Interval
from vpd.types import Batch


class LossOf(nn.Module):
    """The whole forward pass of training as one module, so that DDP wraps the computation of the loss.

    Args:
        model: Whom to train.
        use_bf16: Compute under bfloat16 autocast.
    """

    def __init__(self, model: PerceptionModel, *, use_bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.use_bf16 = use_bf16

    def forward(self, batch: Batch) -> Tensor:
        """Loss of a batch, a scalar."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.use_bf16):
            return self.model.loss(batch)


class Stepper:
    """Takes optimiser steps.

    Everything random in a step is a function of seed, step and process.

    Args:
        model: Whom to train; moves to the device of `accelerator`.
        config: How to train.
        accelerator: Device and other processes.

    Raises:
        UsageError: If the recipe's groups cannot be made of the model's parameters.
    """

    def __init__(self, model: PerceptionModel, config: TrainConfig, accelerator: Accelerator) -> None:
        self._config, self._accelerator = config, accelerator
        model.backbone.gradient_checkpointing = config.gradient_checkpointing
        _own_memory(model.to(accelerator.device).train())
        self.optimiser = build_optimiser(optimiser_groups(model, config))
        self._parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        self._loss_of: nn.Module = accelerator.prepare(LossOf(model, use_bf16=config.precision == "bf16"))

    def take(self, step: int, rate: float, batches: Iterator[Batch], interval: Interval) -> tuple[float, float]:
        """Take one step.

        Args:
            step: Steps taken before.
            rate: Learning rate of a group with scale 1.
            batches: As many as `accumulate` says are drawn.
            interval: Where to count.

        Returns:
            Loss of this process and norm of the gradient before it was clipped.

        Raises:
            FloatingPointError: If one of them is NaN or infinite; the weights are then those of before the step.
        """
        torch.manual_seed(step_seed(self._config.seed, step, self._accelerator.process_index))
        set_learning_rate(self.optimiser, rate)
        parts = self._config.accumulate
        step_loss, names = 0.0, []
        for part in range(parts):
            asked = time.perf_counter()
            batch = next(batches)
            interval.wait_s += time.perf_counter() - asked
            with nullcontext() if part == parts - 1 else self._accelerator.no_sync(self._loss_of):
                loss = self._loss_of(batch.to(self._accelerator.device)) / parts
                value = float(loss.detach())
                _check_finite("loss", value, step, batch.names)
                self._accelerator.backward(loss)
            step_loss += value
            names += batch.names
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm or math.inf))
        _check_finite("norm of the gradient", norm, step, names)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        interval.add(step_loss, len(names))
        return step_loss, norm


def find_processes() -> Accelerator:
    """Device and other processes of this run, as torchrun or SLURM set them up; autocast is left to `LossOf`."""
    return Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())


def optimiser_groups(model: PerceptionModel, config: TrainConfig) -> list[dict[str, Any]]:
    """The model's parameters in the groups of the recipe.

    Raises:
        UsageError: If the published groups are asked for, and the model is not built like the published one.
    """
    names: dict[str, str] = {}
    if config.recipe == "reference":
        own = [name for name, _ in model.named_parameters() if not name.startswith("text_encoder.")]
        try:
            names = published_names(config.task, own)
        except KeyError as error:
            raise UsageError(
                f"recipe=reference sorts parameters as in the published model, and {error.args[0]}. "
                "Use recipe=default for this model."
            ) from error
    return parameter_groups(
        model.named_parameters(),
        task=config.task,
        recipe=config.recipe,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        unet_lr_scale=config.unet_lr_scale,
        published_name=names.__getitem__,
    )


def _own_memory(model: nn.Module) -> None:
    """Move weights out of mapped files: CPU kernels round differently where memory is not aligned."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _check_finite(what: str, value: float, step: int, names: list[str]) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The {what} is {value} at step {step + 1}, on the samples {', '.join(names)}. Look at these samples; "
            "else lower learning_rate, set clip_norm, or use precision=no. The last checkpoint is unharmed."
        )
