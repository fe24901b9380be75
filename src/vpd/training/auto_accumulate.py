"""How many batches a step must be cut into to fit into memory: found before the first step."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from accelerate import Accelerator

from vpd.errors import UsageError
from vpd.tasks.model import PerceptionModel
from vpd.training.config import TrainConfig
from vpd.training.optimisers import STATE_BYTES
from vpd.training.step import LossOf, micro_batch_size, set_up

logger = logging.getLogger(__name__)

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""In what torch says where it has no exception of its own: CPU, Apple GPU."""
_PROCESS, _SYSTEM, _GROUP = Path("/proc/self"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def find_accumulation(model: PerceptionModel, config: TrainConfig, accelerator: Accelerator) -> int:
    """The least number of batches that each process must cut its share of a step into.

    Runs forward and backward passes of random samples at full size, beside the memory that the optimiser will take.
    A GPU tries the whole share first, then its halves, thirds and so on. Linux kills a process that takes too much
    main memory, so on a CPU the smallest share is measured and the others follow by arithmetic. Of several processes
    the one with the least memory decides. Weights, BatchNorm's statistics and random generators are afterwards as
    before, but the model is on the device.

    Raises:
        UsageError: If not even one sample fits, or the samples of a step cannot be shared out evenly.
    """
    share = micro_batch_size(config.model_copy(update={"accumulate": 1}), accelerator.num_processes)
    set_up(model, config)
    model.to(accelerator.device).train()
    with nothing_changed(model, accelerator.device):
        size = _Trials(model, config, accelerator).largest_of(share)
    own = torch.tensor([share // size if size else share + 1], device=accelerator.device)
    found = int(accelerator.gather(own).max())
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
        self._model, self._crop_px, self._device = model, config.crop_px, accelerator.device
        self._loss_of = LossOf(model, config)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        average = 4 if config.ema_decay else 0
        buckets = 4 if accelerator.num_processes > 1 else 0  # in which DDP exchanges gradients
        each = STATE_BYTES[config.optimiser] + average + buckets
        self._reserve_bytes = each * sum(parameter.numel() for parameter in trained)
        self._gradient_bytes = sum(parameter.nbytes for parameter in trained)

    def largest_of(self, share: int) -> int:
        """The largest divisor of a share that fits; 0 if none does."""
        sizes = [size for size in range(1, share + 1) if share % size == 0]
        left = available_bytes() if self._device.type == "cpu" else None
        if left is not None and (taken := restart_peak()) is not None:
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
        activations = max(0, peak_bytes() - taken_bytes - self._gradient_bytes)
        fixed = self._reserve_bytes + self._gradient_bytes
        return max((size for size in sizes if fixed + activations * size / sizes[0] <= left_bytes), default=0)

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
        batch = self._model.example_batch(size, self._crop_px).to(self._device)
        for _ in range(2):  # gradients of the first batch are there while the second is computed
            total, _ = self._loss_of(batch)
            total.backward()
        self._loss_of.zero_grad(set_to_none=True)


@contextmanager
def nothing_changed(model: PerceptionModel, device: torch.device) -> Iterator[None]:
    """Put back buffers and random generators at the end."""
    before = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)


def available_bytes() -> int | None:
    """Main memory that may still be taken without swapping; none where the system, as others than Linux, is silent."""
    try:
        lines = dict(line.split(":", 1) for line in _SYSTEM.read_text().splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        most, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # there is no control group, or it has no limit
        return left
    return min(left, max(0, most - used))


def restart_peak() -> int | None:
    """Forget what this process took at most so far; returns what it has now, or none where the system is silent."""
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)  # or what was freed is taken again without being noticed
    try:
        (_PROCESS / "clear_refs").write_text("5")
        return _own_bytes("VmRSS")
    except OSError:
        return None


def peak_bytes() -> int:
    """Main memory that this process took at most since `restart_peak`."""
    return _own_bytes("VmHWM")


def _own_bytes(name: str) -> int:
    """A count of this process's memory without pages of files (libraries), which come and go as the system likes."""
    lines = dict(line.split(":", 1) for line in (_PROCESS / "status").read_text().splitlines())
    kilobytes, of_files = (int(lines[key].split()[0]) for key in (name, "RssFile"))
    return (kilobytes - of_files) * 1024
