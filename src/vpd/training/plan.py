"""What follows from the settings and the size of the data: how many steps, at which rate, in which shares."""

from __future__ import annotations

import math

import numpy as np

from vpd.errors import UsageError
from vpd.tasks.table import TaskKind
from vpd.training.config import TrainConfig
from vpd.training.schedules import Schedule, build_schedule, recipe_schedule


def total_steps(config: TrainConfig, samples: int) -> int:
    """Optimiser steps of the whole run on a data set of so many samples."""
    if config.steps is not None:
        return config.steps
    return math.ceil((config.epochs or 0) * samples / config.batch_size)


def schedule_of(config: TrainConfig, task: TaskKind, *, samples: int) -> Schedule:
    """Course of the learning rate: the recipe's, or the one that the settings ask for."""
    steps, peak = total_steps(config, samples), config.learning_rate
    if config.schedule is not None:
        return build_schedule(config.schedule, peak=peak, steps=steps)
    steps_per_epoch = max(1, samples // config.batch_size)
    published = task.published_schedule
    return recipe_schedule(config.recipe, published, peak=peak, steps=steps, steps_per_epoch=steps_per_epoch)


def micro_batch_size(config: TrainConfig, processes: int) -> int:
    """Samples that one process takes through the network at a time.

    Raises:
        UsageError: If the samples of a step cannot be shared out evenly.
    """
    size, rest = divmod(config.batch_size, config.parts * processes)
    if rest:
        raise UsageError(
            f"batch_size={config.batch_size} must be a multiple of accumulate={config.parts} times "
            f"{processes} processes: it counts the samples of one step over all of them."
        )
    return size


def checkpoints_at_once(config: TrainConfig, start_step: int, steps: int, *, has_scores: bool) -> int:
    """Most checkpoints that lie on the disk at the same time: the newest, the best, and one that is being written.

    Args:
        config: Says how many are kept, and when one is written.
        start_step: Steps that were done before.
        steps: Of the whole run.
        has_scores: Whether there is a best one.
    """
    due = {steps, *range(0, steps + 1, config.checkpoint_every)}
    if has_scores:
        due |= set(range(0, steps + 1, config.validate_every))
    written = sum(step > start_step for step in due) + (start_step > 0)
    return min(written, config.keep + 1 + has_scores)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random that a process does in a step, so that a resumed run repeats it."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))
