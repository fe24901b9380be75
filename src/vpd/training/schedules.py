"""Learning rates over a training run.

A `Schedule` gives the absolute rate for the next optimiser step from the number of steps already taken, so
the first step trains at `schedule(0)`. A parameter group trains at that rate times its `lr_scale`
(`vpd.training.optimisers.set_learning_rate`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from vpd.errors import UsageError

Schedule = Callable[[int], float]
"""Optimiser steps taken -> learning rate of a group with scale 1."""


def poly_rate(
    step: int,
    *,
    peak: float,
    steps: int,
    power: float = 1.0,
    floor: float = 0.0,
    warmup_steps: int = 0,
    warmup_ratio: float = 1e-6,
) -> float:
    """Fall from `peak` to `floor` as (1 - step / steps)^power, times a factor that first rises linearly to 1.

    Args:
        step: Optimiser steps taken.
        peak: Rate at step 0 without warm-up.
        steps: Steps of the whole run; from there on the rate is `floor`.
        power: 1 = a straight line.
        floor: Lowest rate after the warm-up.
        warmup_steps: Steps of the warm-up, during which the fall already runs (as in mmsegmentation).
        warmup_ratio: Factor of the very first step.
    """
    rate = floor + (peak - floor) * max(0.0, 1.0 - step / steps) ** power
    if step >= warmup_steps:
        return rate
    return rate * (1.0 - (1.0 - step / warmup_steps) * (1.0 - warmup_ratio))


def rise_and_fall_rate(step: int, *, peak: float, floor: float, half_steps: int, power: float = 0.9) -> float:
    """Rise from `floor` to `peak` over `half_steps` steps, fall over as many, stay at `floor`.

    Args:
        step: Optimiser steps taken.
        peak: Largest rate, that of step `half_steps - 1`.
        floor: Rate before the first step and from the last on.
        half_steps: Steps of the rise.
        power: Exponent of the share of the rise, or of the fall, that is done.
    """
    done = (step + 1) / half_steps  # the reference counts from 1
    if done <= 1.0:
        return floor + (peak - floor) * done**power
    return max(floor, peak - (peak - floor) * (done - 1.0) ** power)


def build_schedule(
    kind: Literal["poly", "rise_fall"] = "poly",
    *,
    peak: float,
    steps: int,
    power: float = 1.0,
    floor: float = 0.0,
    warmup_steps: int | None = None,
    warmup_ratio: float = 1e-6,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """The learning rate of a run of `steps` optimiser steps.

    As published: segmentation `poly` with 1,500 steps of warm-up; referring `poly` with power 0.9 and none;
    depth `rise_fall` with power 0.9 and floor 3e-5.

    The defaults are what we recommend for all three: a straight line to 0 after a short warm-up. It did as
    well as or better than cosine and power laws in a wide comparison (Defazio et al. 2023,
    https://arxiv.org/abs/2310.07831), knows no epochs, and is the published one for segmentation; the warm-up
    shields the pre-trained UNet from the gradients of a fresh head.

    Args:
        kind: `poly` = `poly_rate`, `rise_fall` = `rise_and_fall_rate`.
        peak: Largest rate.
        steps: Optimiser steps of the whole run.
        power: Exponent of the curve.
        floor: Lowest rate.
        warmup_steps: Steps of the warm-up, `poly` only; none = a twentieth of the run, at most 1,500.
        warmup_ratio: Factor of the very first step, `poly` only.
        steps_per_epoch: `rise_fall` then rises over `epochs // 2` whole epochs as the reference does, so that
            with an odd number the last one stays at the floor; not given, or fewer than two epochs in the
            run: half of all steps.

    Raises:
        UsageError: If there are no steps, or the rates are not 0 <= floor <= peak.
    """
    if steps < 1 or (steps_per_epoch is not None and steps_per_epoch < 1):
        raise UsageError(f"A run needs at least one step, and one an epoch; got {steps}, {steps_per_epoch} an epoch.")
    if not 0.0 <= floor <= peak:
        raise UsageError(f"The lowest rate {floor} must lie between 0 and the largest, {peak}.")
    if kind == "poly":
        warmup = min(1500, steps // 20) if warmup_steps is None else warmup_steps
        return partial(
            poly_rate,
            peak=peak,
            steps=steps,
            power=power,
            floor=floor,
            warmup_steps=warmup,
            warmup_ratio=warmup_ratio,
        )
    half_steps = max(1, steps // 2)
    if steps_per_epoch is not None and steps >= 2 * steps_per_epoch:
        half_steps = steps // steps_per_epoch // 2 * steps_per_epoch
    return partial(rise_and_fall_rate, peak=peak, floor=floor, half_steps=half_steps, power=power)
