"""Settings that nobody gave, chosen for the model, the data and the machine, so that a first run goes right."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from accelerate import Accelerator

from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.loading import find_model, has_fast_bf16, is_adapted
from vpd.model_folder import read_config
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TASKS
from vpd.training.config import TrainConfig
from vpd.training.machine import for_machine
from vpd.training.schedules import total_steps
from vpd.training.timing import Timing, busy_note, can_be_timed, costs_of, device_word, measure_pace

logger = logging.getLogger(__name__)

_DECIDE = {"crop_px", "batch_size", "steps"}
_FOLLOW = {"accumulate", "precision", "validate_every", "validate_limit", "checkpoint_every"}
_AIM_S = {"cpu": 540.0, "cuda": 7200.0, "mps": 3600.0}
"""How long a run shall take at most, where enough steps fit into that."""
_ENOUGH_STEPS, _PASSES = 200, 60
_CPU_BATCH = 8
_TIMES, _AT_MOST = (3, 2, 1), 1.5
"""Sizes that are tried, over that of a small diffusion model; the fewest steps may take so many times the aim."""
_VALIDATIONS, _VALIDATION_SHARE, _FEW = 4, 0.25, 20
"""Validations of a run, their share of its time at most, and the fewest samples that are measured."""


def left_out(given: Mapping[str, Any]) -> set[str]:
    """Names of the settings that are chosen here: what decides size and length of a run, and what follows from that.

    None are where a recipe is named, or size and length are given.
    """
    known = set(given) | ({"steps"} if "epochs" in given else set())
    decided = set() if "recipe" in given else _DECIDE - known
    return decided | (_FOLLOW - known) if decided else set()


def known_size(config: TrainConfig, free: set[str]) -> TrainConfig:
    """The settings with the size at which an adapted model predicts, if it shall go on and no size is given."""
    if "crop_px" not in free or not is_adapted(config.model):
        return config
    fitted, _ = read_config(find_model(config.model), {name: kind.config_type for name, kind in TASKS.items()})
    return config.model_copy(update={"crop_px": fitted.fit.size_px})


def choose_settings(
    config: TrainConfig,
    free: set[str],
    model: PerceptionModel[Any],
    train_set: SampleSet,
    validation_set: SampleSet | None,
    accelerator: Accelerator,
) -> tuple[TrainConfig, Timing | None]:
    """Choose what was left out, and say how; time a step where that is possible.

    Args:
        config: The settings, with the recipe's values where nothing was given.
        free: Which of them may be chosen (`left_out`).
        model: Whom to train; gets the fit of the chosen size.
        train_set: What to train on.
        validation_set: What to measure on, if anything.
        accelerator: Device and other processes.
    """
    reasons: dict[str, str] = {}
    device, processes = accelerator.device, accelerator.num_processes

    def choose(name: str, value: Any, reason: str) -> None:
        nonlocal config
        if name in free and value is not None and getattr(config, name) != value:
            config = config.model_copy(update={name: value} | ({"epochs": None} if name == "steps" else {}))
            reasons[name] = reason

    if has_fast_bf16(device):
        choose("precision", "bf16", f"this {device_word(device)} has it")
    config = for_machine(config, device)
    if device.type == "cpu" and config.accumulate in ("auto", 1):  # else the recipe's is what is to be cut
        size = math.ceil(min(config.batch_size, _CPU_BATCH, max(2, len(train_set))) / processes) * processes
        choose("batch_size", size, "more steps in the same time")
    if "batch_size" in free and config.sharding == "none":
        choose("accumulate", "auto", "as memory allows")
        reasons.pop("accumulate", None)  # told when it is found
    aim_s, timing = _AIM_S.get(device.type, _AIM_S["cuda"]), None
    sizes = _crops(config, model, train_set) if "crop_px" in free else [(config.crop_px, "")]
    fewest = _ENOUGH_STEPS if "steps" in free else min(_ENOUGH_STEPS, total_steps(config, len(train_set)))
    for crop_px, reason in sizes:
        choose("crop_px", crop_px, reason)
        fit = model.training_fit(config.recipe, config.crop_px)
        if fit.size_px != model.config.fit.size_px:
            model.config = model.config.model_copy(update={"fit": fit})
        timing = measure_pace(model, config, validation_set, accelerator) if can_be_timed(config) else None
        if timing is None or fewest * costs_of(timing, config, None, processes).step_s < _AT_MOST * aim_s:
            break
    smaller = sizes[0][0] if config.crop_px < sizes[0][0] else 0
    if validation_set is not None and timing and timing.validation_sample_s:
        fitting = aim_s * _VALIDATION_SHARE / _VALIDATIONS / timing.validation_sample_s * processes
        if fitting < len(validation_set):
            choose("validate_limit", max(_FEW, math.floor(fitting)), f"of {len(validation_set)}, for time")
    if "steps" in free:
        choose("steps", *_steps(config, train_set, validation_set, timing, aim_s, processes))
    steps = total_steps(config, len(train_set))
    every = min(config.validate_every, math.ceil(steps / _VALIDATIONS))
    choose("validate_every", every, f"{_VALIDATIONS} times")
    choose("checkpoint_every", min(config.checkpoint_every, every), "as often")
    if reasons:
        told = ", ".join(f"{name}={getattr(config, name)} ({reason})" for name, reason in reasons.items())
        logger.info("Chosen, as not given: %s. -s changes each; -s recipe=default takes none of them.", told)
    if smaller:
        logger.warning(
            "Larger pictures give better results: at %d px a step took too long for %.0f min of training. "
            "-s crop_px=%d takes them all the same.%s",
            *(smaller, aim_s / 60, smaller, busy_note()),
        )
    return config, timing


def _crops(config: TrainConfig, model: PerceptionModel[Any], train_set: SampleSet) -> list[tuple[int, str]]:
    """Sizes to choose from, the best first, with reasons: a small diffusion model gains from larger pictures."""
    if is_adapted(config.model):
        return [(config.crop_px, "as the model predicts")]
    made_at = model.backbone.config.unet.get("sample_size")
    native_px = made_at * model.backbone.latent_stride if isinstance(made_at, int) else config.crop_px
    if native_px >= config.crop_px:
        return [(config.crop_px, "the recipe's")]
    short_px = _short_side_px(train_set)
    sizes = [times * native_px for times in _TIMES if times * native_px <= min(config.crop_px, short_px)]
    reason = f"the model was made at {native_px} px, the pictures' short side has {short_px}"
    return [(size, reason) for size in sizes or [native_px]]


def _short_side_px(train_set: SampleSet) -> int:
    """Of a picture of the set, one that can be read."""
    for index in range(len(train_set)):
        with suppress(UsageError):
            return min(train_set[index].image.shape[:2])
    raise UsageError("No training sample can be read. vpd data check names every problem.")


def _steps(
    config: TrainConfig,
    train_set: SampleSet,
    validation_set: SampleSet | None,
    timing: Timing | None,
    aim_s: float,
    processes: int,
) -> tuple[int, str]:
    """As many as the time allows, but enough to learn anything, and no more than the recipe's or many passes need."""
    most = total_steps(config, len(train_set))
    passes = max(_ENOUGH_STEPS, math.ceil(_PASSES * len(train_set) / config.batch_size))
    if passes < most:
        most, reason = passes, f"{_PASSES} passes through {len(train_set)} samples"
        if passes == _ENOUGH_STEPS:
            reason = "the fewest that teach anything"
    else:
        reason = "the recipe's"
    if timing:
        costs = costs_of(timing, config, validation_set, processes)
        fitting = (aim_s - _VALIDATIONS * costs.validation_s) / costs.step_s
        if fitting < most:
            most = max(_ENOUGH_STEPS, int(fitting) // 20 * 20)
            reason = f"in about {aim_s / 60:.0f} min" if fitting >= _ENOUGH_STEPS else "the fewest that teach anything"
    return most, f"{reason}, {config.batch_size * most / len(train_set):.2g} passes"
