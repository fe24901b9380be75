"""How many batches a step must be cut into to fit into memory: found before the first step."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from vpd.errors import UsageError
from vpd.tasks.model import PerceptionModel
from vpd.training import memory
from vpd.training.config import TrainConfig
from vpd.training.optimisers import STATE_BYTES
from vpd.training.plan import micro_batch_size
from vpd.training.step import LossOf, set_up

logger = logging.getLogger(__name__)

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""In what torch says where it has no exception of its own: CPU, Apple GPU."""


def find_accumulation(model: PerceptionModel, config: TrainConfig, accelerator: Accelerator) -> int:
    """The least number of batches that each process must cut its share of a step into.

    Runs forward and backward passes of random samples at full size, beside the memory that the optimiser will take.
    A GPU tries the whole share first, then its halves, thirds and so on. Linux kills a process that takes too much
    main memory, so on a CPU the smallest share is measured and the others follow by arithmetic. Weights, BatchNorm's
    statistics and random generators are afterwards as before.

    Args:
        model: Whom to train; moves to the device.
        config: How to train.
        accelerator: Device and other processes; the one with the least memory decides.

    Raises:
        UsageError: If not even one sample fits, or the samples of a step cannot be shared out evenly.
    """
    whole = config.model_copy(update={"accumulate": 1})
    share = micro_batch_size(whole, accelerator.num_processes)
    set_up(model, config)
    model.to(accelerator.device).train()
    with _nothing_changed(model, accelerator.device):
        size = _Trials(model, config, accelerator).largest_of(share)
    found = share // size if size else share + 1
    on_device = torch.tensor([found], device=accelerator.device)
    found = int(accelerator.gather(on_device).max())
    if found > share:
        raise UsageError(
            f"Not even one sample of {config.crop_px} px fits into the memory of {accelerator.device}. Take "
            "gradient_checkpointing=true, precision=bf16, mode=lora or frozen, or a smaller crop_px."
        )
    logger.info("accumulate=auto: %d samples fit at a time, %d batches a step.", share // found, found)
    return found


class _Trials:
    """Passes of random samples, and the memory they take."""

    def __init__(self, model: PerceptionModel, config: TrainConfig, accelerator: Accelerator) -> None:
        self._model, self._config, self._device = model, config, accelerator.device
        self._loss_of = LossOf(model, config)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        values = sum(parameter.numel() for parameter in trained)
        average = 4 if config.ema_decay else 0
        buckets = 4 if accelerator.num_processes > 1 else 0  # in which DDP exchanges gradients
        self._reserve_bytes = values * (STATE_BYTES[config.optimiser] + average + buckets)
        self._gradient_bytes = sum(parameter.nbytes for parameter in trained)

    def largest_of(self, share: int) -> int:
        """The largest divisor of a share that fits; 0 if none does."""
        sizes = [size for size in range(1, share + 1) if share % size == 0]
        left = memory.available_bytes() if self._device.type == "cpu" else None
        if left is not None and (taken := memory.restart_peak()) is not None:
            return self._measured(sizes, left, taken)
        return next((size for size in reversed(sizes) if self._fits(size)), 0)

    def _measured(self, sizes: list[int], left_bytes: int, taken_bytes: int) -> int:
        """By measuring the smallest size."""
        try:
            self._run(sizes[0])
        except ValueError:  # BatchNorm, of a single value
            if len(sizes) == 1:
                raise
            return self._measured(sizes[1:], left_bytes, taken_bytes)
        activations = max(0, memory.peak_bytes() - taken_bytes - self._gradient_bytes)
        fixed = self._reserve_bytes + self._gradient_bytes
        fitting = [size for size in sizes if fixed + activations * size / sizes[0] <= left_bytes]
        return max(fitting, default=0)

    def _fits(self, size: int) -> bool:
        """By trying."""
        try:
            reserve = torch.empty(self._reserve_bytes, dtype=torch.uint8, device=self._device)
            self._run(size)
            del reserve
            fits = True
        except (RuntimeError, MemoryError) as error:
            is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
            if not is_memory and not any(sign in str(error).lower() for sign in _SIGNS):
                raise
            fits = False
        self._loss_of.zero_grad(set_to_none=True)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return fits

    def _run(self, size: int) -> None:
        batch = self._model.example_batch(size, self._config.crop_px).to(self._device)
        for _ in range(2):  # gradients of the first batch are there while the second is computed
            total, _ = self._loss_of(batch)
            total.backward()
        self._loss_of.zero_grad(set_to_none=True)


@contextmanager
def _nothing_changed(model: PerceptionModel, device: torch.device) -> Iterator[None]:
    """Put back buffers and random generators at the end."""
    before = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)
