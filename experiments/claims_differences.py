"""How far arms lie apart, with intervals, and the words for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims_arms import Arm, paper_model
from experiments.claims_results import SCORES, Lines, PixelAccuracy, metric_of, unpack_rows
from experiments.paired_intervals import Difference, paired_differences

SMALL = "small"


def difference(
    lines: Lines, arm: Arm, base: Arm, *, rows_of: str = "rows", small: bool = False
) -> tuple[int, Difference] | None:
    """Seeds that two arms share, and how far `arm` lies above `base`; none where they share none.

    Args:
        lines: Of all runs.
        arm: The one.
        base: The other.
        rows_of: Which rows of `arm` to take.
        small: Of the accuracy on small objects, instead of the task's score.
    """
    wanted = "small_rows" if small else rows_of
    base_rows = "small_rows" if small else "rows"
    seeds = sorted(
        seed
        for seed, line in lines.get(arm, {}).items()
        if line.get(wanted) and lines.get(base, {}).get(seed, {}).get(base_rows)
    )
    if not seeds:
        return None
    read: Callable[[Any], Tensor] = (
        (lambda rows: torch.tensor(rows).T) if small else (lambda r: unpack_rows(arm.task, r))
    )

    def stacked(which: Arm, field: str) -> Tensor:
        return torch.stack([read(lines[which][seed][field]) for seed in seeds])

    metric = PixelAccuracy() if small else metric_of(arm.task)
    gaps = paired_differences(metric, stacked(arm, wanted), stacked(base, base_rows))
    return len(seeds), gaps[SMALL if small else SCORES[arm.task]]


def is_error(task: str) -> bool:
    """Whether less is better."""
    return task == "depth"


def shown(task: str, value: float) -> str:
    """Metres, or per cent."""
    return f"{value:.3f}" if is_error(task) else f"{100 * value:.1f}"


def gap_words(task: str, gap: tuple[int, Difference] | None, *, bold: bool = False) -> str:
    """A difference with its interval; `one seed` where that is of scenes alone."""
    if gap is None:
        return "—"
    seeds, found = gap
    scale, digits = (1, 3) if is_error(task) else (100, 1)
    low, mean, high = (f"{scale * value:+.{digits}f}" for value in (found.low, found.mean, found.high))
    words = f"{mean} [{low}, {high}]"
    if seeds == 1:
        return f"{words}¹"
    clear = found.low > 0 or found.high < 0
    return f"**{words}**" if bold and clear else words


def scores(lines: Lines, arm: Arm, field: str = "score") -> list[float]:
    """Of all seeds; what a report cannot count (a metric of nothing) is left out."""
    return [line[field] for line in lines.get(arm, {}).values() if line[field] is not None]


def mean_words(task: str, values: list[float], *, spread: bool = True) -> str:
    """Their mean and standard deviation."""
    if not values:
        return "—"
    deviation = f" ± {shown(task, float(np.std(values, ddof=1)))}" if spread and len(values) > 1 else ""
    return shown(task, float(np.mean(values))) + deviation


def arm_words(arm: Arm) -> str:
    """What is different about an arm."""
    of_control = "control without words"
    words = {("backbone", "unconditional"): of_control, ("backbone", "random"): "random weights"}
    words |= {("prompt", "null"): "empty text", ("prompt", "exchanged"): "exchanged names"}
    words |= {("maps", "off"): "maps off", ("maps", "published"): "maps as published"}
    changed = [words.get(pair, " ".join(pair)) for pair in arm.changed().items()]
    if of_control in changed:
        changed = [of_control]  # whose empty text is a part of it
    return ", ".join(changed) or "the paper's model"


def of_backbone(task: str, labels: int, regime: str, lines: Lines) -> dict[str, Arm]:
    """Backbone -> the arm that differs from the paper's model in nothing else but what its control has to read."""
    base = paper_model(task, labels, regime)
    found = {}
    for arm in lines:
        same = (arm.task, arm.labels, arm.regime, arm.maps, arm.adapter) == (task, labels, regime, "on", base.adapter)
        if same and (arm.prompt == "proper" or arm.backbone == "unconditional"):
            found[arm.backbone] = arm
    return {name: found[name] for name in ("text", "unconditional", "random") if name in found}
