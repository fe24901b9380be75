"""Steps and learning rates of a training run.

A `Schedule` gives the absolute rate for the next optimiser step from the number of steps already taken, so
the first step trains at `schedule(0)`. A parameter group trains at that rate times its `lr_scale`
(`vpd.training.optimisers.set_learning_rate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vpd.config import Recipe
from vpd.errors import UsageError
from vpd.tasks.table import TaskKind
from vpd.training.config import ScheduleSettings, TrainConfig

Schedule = Callable[[int], float]
"""Optimiser steps taken -> learning rate of a group with scale 1."""
WARMUP_RATIO = 1e-6
"""Factor of the very first step of a warm-up, as published."""


def total_steps(config: TrainConfig, samples: int) -> int:
    """Optimiser steps of the whole run on a data set of so many samples."""
    if config.steps is not None:
        return config.steps
    return math.ceil((config.epochs or 0) * samples / config.batch_size)


def schedule_of(config: TrainConfig, task: TaskKind, *, samples: int) -> Schedule:
    """Course of the learning rate over a data set of so many samples: the recipe's, or what the settings ask for."""
    steps, peak = total_steps(config, samples), config.learning_rate
    if config.schedule is not None:
        return build_schedule(config.schedule, peak=peak, steps=steps)
    steps_per_epoch = max(1, samples // config.batch_size)
    return recipe_schedule(
        config.recipe, task.published_schedule, peak=peak, steps=steps, steps_per_epoch=steps_per_epoch
    )


def recipe_schedule(
    recipe: Recipe, published: Mapping[str, Any], *, peak: float, steps: int, steps_per_epoch: int | None = None
) -> Schedule:
    """The learning rate of a recipe.

    `reference`, as published: segmentation falls straight to 0 with 1,500 steps of warm-up; referring falls
    with power 0.9; depth rises with power 0.9 over the first `epochs // 2` epochs and falls over as many, so
    that with an odd number of epochs the last one stays at the floor.

    `default`, all tasks: straight to 0, with a twentieth of the run, at most 1,500 steps, as warm-up. That
    did as well as or better than cosine and power laws in a wide comparison (Defazio et al. 2023,
    https://arxiv.org/abs/2310.07831), knows no epochs, and is the published one for segmentation; the warm-up
    shields the pre-trained UNet from the gradients of a fresh head.

    Args:
        recipe: `reference` or `default`.
        published: Of the task, `published_schedule`.
        peak: Largest rate.
        steps: Optimiser steps of the whole run.
        steps_per_epoch: Where a published rate rises and falls; not given, or fewer than two epochs in the run: half
            of all steps rise.

    Raises:
        UsageError: If there is no step, or the rate is not positive.
    """
    if steps < 1 or peak <= 0 or (steps_per_epoch is not None and steps_per_epoch < 1):
        raise UsageError(
            f"A run needs at least one step, one an epoch, and a positive learning rate; got {steps} steps, "
            f"{steps_per_epoch} an epoch, learning rate {peak}."
        )
    if recipe == "default":
        return partial(poly_rate, peak=peak, steps=steps, warmup_steps=min(1500, steps // 20))
    return build_schedule(ScheduleSettings(**published), peak=peak, steps=steps, steps_per_epoch=steps_per_epoch)


def build_schedule(
    wanted: ScheduleSettings, *, peak: float, steps: int, steps_per_epoch: int | None = None
) -> Schedule:
    """The learning rate of settings; arguments as for `recipe_schedule`."""
    if wanted.kind == "poly":
        return partial(poly_rate, peak=peak, steps=steps, power=wanted.power, warmup_steps=wanted.warmup_steps)
    half_steps = max(1, steps // 2)
    if steps_per_epoch is not None and steps >= 2 * steps_per_epoch:
        half_steps = steps // steps_per_epoch // 2 * steps_per_epoch
    return partial(rise_and_fall_rate, peak=peak, floor=wanted.floor * peak, half_steps=half_steps, power=wanted.power)


def poly_rate(step: int, *, peak: float, steps: int, power: float = 1.0, warmup_steps: int = 0) -> float:
    """Fall from `peak` to 0 as (1 - step / steps)^power, times a factor that first rises linearly to 1.

    During the warm-up, of `warmup_steps`, the fall already runs, as in mmsegmentation.
    """
    rate = peak * max(0.0, 1.0 - step / steps) ** power
    if step >= warmup_steps:
        return rate
    return rate * (1.0 - (1.0 - step / warmup_steps) * (1.0 - WARMUP_RATIO))


def rise_and_fall_rate(step: int, *, peak: float, floor: float, half_steps: int, power: float) -> float:
    """Rise from `floor` to `peak`, at step `half_steps - 1`, fall over as many steps, and stay at `floor`.

    Rise and fall go by the share of them that is done, to the `power`.
    """
    done = (step + 1) / half_steps  # the reference counts from 1
    if done <= 1.0:
        return floor + (peak - floor) * done**power
    return max(floor, peak - (peak - floor) * (done - 1.0) ** power)
