"""What a run will take: a step and a validation are timed before it begins, and nothing of the model changes."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather

from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.evaluation.evaluate import measure
from vpd.tasks.model import PerceptionModel
from vpd.training.auto_accumulate import nothing_changed
from vpd.training.config import TrainConfig
from vpd.training.progress import Costs
from vpd.training.step import LossOf, micro_batch_size, set_up

logger = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""What takes longer is not done again to be surer of it."""
_LONG_S = 1200.0
"""A run that takes longer is told what would make it shorter."""
_LEAST_PX = 64
_BUSY = 1.5
"""Load for each core from which times that are measured say little."""


@dataclass(frozen=True)
class Timing:
    """What was measured."""

    sample_s: float
    """Seconds of the training pass of one sample."""
    small_sample_s: float
    """The same with half the `crop_px`."""
    validation_sample_s: float
    """Seconds of one validation sample; 0 = there are none, or one cannot be read."""


def can_be_timed(config: TrainConfig) -> bool:
    """Whether one process can run a step by itself without what the run does once: compiling, sharing the weights."""
    return not config.compile and config.sharding == "none"


def measure_pace(
    model: PerceptionModel, config: TrainConfig, validation_set: SampleSet | None, accelerator: Accelerator
) -> Timing:
    """Time the training of a few random samples, of smaller ones too, and one validation; the slowest process counts.

    Weights, BatchNorm's statistics and random generators are afterwards as before, but the model is on the device.

    Raises:
        UsageError: If the samples of a step cannot be shared out evenly.
    """
    set_up(model, config)
    model.to(accelerator.device).train()
    loss_of = LossOf(model, config)
    whole = config if config.accumulate != "auto" else config.model_copy(update={"accumulate": 1})
    most = micro_batch_size(whole, accelerator.num_processes)
    with nothing_changed(model, accelerator.device):
        _sample_s(loss_of, _LEAST_PX, most)  # the first pass of all also starts threads and loads kernels
        small_sample_s = _sample_s(loss_of, max(_LEAST_PX, config.crop_px // 2), most)
        sample_s = _sample_s(loss_of, config.crop_px, most)
        loss_of.zero_grad(set_to_none=True)
        validation_s = _validation_sample_s(model, config, validation_set)
    own = torch.tensor([[sample_s, small_sample_s, validation_s]], device=accelerator.device)
    return Timing(*(gather(own) if accelerator.num_processes > 1 else own).max(dim=0).values.tolist())


def costs_of(
    timing: Timing, config: TrainConfig, validation_set: SampleSet | None, processes: int, *, is_small: bool = False
) -> Costs:
    """What a step and a validation of a run take; `is_small`: with half its `crop_px`."""
    sample_s = timing.small_sample_s if is_small else timing.sample_s
    count = min(len(validation_set), config.validate_limit or math.inf) if validation_set else 0
    validation_s = count * timing.validation_sample_s * (timing.small_sample_s / timing.sample_s if is_small else 1)
    return Costs(sample_s * config.batch_size / processes, validation_s / processes)


def whole_s(costs: Costs, config: TrainConfig, steps: int) -> float:
    """Seconds of a run of so many steps with its validations."""
    return steps * costs.step_s + math.ceil(steps / config.validate_every) * costs.validation_s


def tell_length(
    timing: Timing, config: TrainConfig, validation_set: SampleSet | None, *, steps: int, accelerator: Accelerator
) -> None:
    """Log how long a run of so many steps will take; of a long one also what would make it shorter."""
    processes, device = accelerator.num_processes, device_word(accelerator.device)
    costs = costs_of(timing, config, validation_set, processes)
    total_s = whole_s(costs, config, steps)
    validations = math.ceil(steps / config.validate_every) if costs.validation_s else 0
    told = f"{steps} steps of {_duration(costs.step_s)}"
    told += f", {_times(validations, 'validation')} of {_duration(costs.validation_s)}" if validations else ""
    crop_px, batch_size = config.crop_px // 2, max(config.batch_size // 4, 2, config.accumulation * processes)
    hint = ""
    if total_s > _LONG_S and crop_px >= _LEAST_PX and config.batch_size % batch_size == 0:
        shorter = config.model_copy(update={"crop_px": crop_px, "batch_size": batch_size})
        shorter_s = whole_s(costs_of(timing, shorter, validation_set, processes, is_small=True), config, steps)
        hint = f" With -s crop_px={crop_px} -s batch_size={batch_size} about {_duration(shorter_s)}."
    logger.info("This will take about %s on this %s: %s.%s%s", _duration(total_s), device, told, hint, busy_note())


def busy_note() -> str:
    """That other programs slow this machine down, where they do; nothing where the system is silent."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):  # Windows has none
        return ""
    if load < _BUSY * cores:
        return ""
    return f" Other programs keep this machine busy (load {load:.0f} on {_times(cores, 'core')}): alone it is quicker."


def device_word(device: torch.device) -> str:
    """What people call a device."""
    return {"cuda": "GPU", "mps": "GPU"}.get(device.type, device.type.upper())


def _sample_s(loss_of: LossOf, crop_px: int, most: int) -> float:
    """Seconds of a training pass for a sample, of two at a time where so many are trained together and fit."""
    try:
        return _pass_s(loss_of, crop_px, min(2, most))
    except torch.OutOfMemoryError:
        if most == 1:
            raise
    return _pass_s(loss_of, crop_px, 1)  # only now: the error holds what the pass has made


def _pass_s(loss_of: LossOf, crop_px: int, count: int) -> float:
    """Seconds of a training pass of so many samples together, for each of them."""
    batch = loss_of.model.example_batch(count, crop_px).to(loss_of.model.device)

    def step() -> None:
        total, _weight = loss_of(batch)
        total.backward()
        if batch.images.device.type != "cpu":
            torch.accelerator.synchronize()

    return _fastest_s(step) / count


def _validation_sample_s(model: PerceptionModel, config: TrainConfig, validation_set: SampleSet | None) -> float:
    """Seconds of a validation sample; that one cannot be read is told when it is its turn."""
    if validation_set is None:
        return 0.0
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return _fastest_s(lambda: measure(model, validation_set, limit=1))
    except UsageError:
        return 0.0


def _fastest_s(work: Callable[[], object]) -> float:
    """Seconds that something takes, of three times the shortest; of long ones the first."""
    times: list[float] = []
    while len(times) < 3 and (not times or times[0] < _AGAIN_S):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return min(times)


def _times(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)


def _duration(seconds: float) -> str:
    """A duration for people."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 90):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
