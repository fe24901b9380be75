"""How fast arms learn: the plot of their curves, and after how many steps they reach what random weights do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.claims_arms import LABELS, TASKS, Arm
from experiments.claims_differences import is_error, of_backbone, shown
from experiments.claims_results import SCORES, Lines
from vpd.files.atomic import atomic_write

_COLOURS = {"text": "C0", "unconditional": "C1", "random": "C3"}
_WORDS = {"text": "text-to-image", "unconditional": "control without words", "random": "random weights"}


def mean_curve(lines: Lines, arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean over seeds of the metric on the first test scenes."""
    curves = np.array([line["curve"] for line in lines[arm].values()], dtype=float)
    return curves[0, :, 0], curves[:, :, 1].mean(axis=0)


def steps_to(steps: np.ndarray, values: np.ndarray, target: float, *, is_error: bool) -> float | None:
    """First step at which a curve, straight between what was measured, reaches a target; none if it never does."""
    gains = (target - values) if is_error else (values - target)
    for place, gain in enumerate(gains):
        if gain >= 0:
            if place == 0 or gain == gains[place - 1]:
                return float(steps[place])
            share = -gains[place - 1] / (gain - gains[place - 1])
            return float(steps[place - 1] + share * (steps[place] - steps[place - 1]))
    return None


def steps_table(lines: Lines) -> str:
    """When the mean curve of a backbone first reaches the best that the random one's has."""
    rows = []
    for task, regime, labels in _panels():
        arms = of_backbone(task, labels, regime, lines)
        if "random" not in arms or task == "open":
            continue
        steps, values = mean_curve(lines, arms["random"])
        target = float(values.min() if is_error(task) else values.max())
        cells = []
        for name in ("text", "unconditional"):
            if name not in arms:
                cells.append("—")
                continue
            reached = steps_to(*mean_curve(lines, arms[name]), target, is_error=is_error(task))
            first = "≤ " if reached is not None and reached <= steps[0] else ""
            cells.append("never" if reached is None else f"{first}{reached:.0f}")
        cells = [task, regime, str(labels), shown(task, target), *cells, f"{steps[-1]:.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    if not rows:
        return ""
    head = "| task | regime | labels | best of random weights | text-to-image | control without words | of steps |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def plot_curves(lines: Lines, path: Path) -> None:
    """One panel for each task, regime and number of labels that has runs of two backbones."""
    from matplotlib.figure import Figure

    panels = [panel for panel in _panels() if len(of_backbone(panel[0], panel[2], panel[1], lines)) > 1]
    columns = min(4, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows), layout="constrained")
    for place, (task, regime, labels) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        scale = 1 if is_error(task) else 100
        for name, arm in of_backbone(task, labels, regime, lines).items():
            for line in lines[arm].values():
                one = np.array(line["curve"], dtype=float)
                axes.plot(one[:, 0], scale * one[:, 1], color=_COLOURS[name], alpha=0.25, linewidth=0.7)
            steps, values = mean_curve(lines, arm)
            axes.plot(steps, scale * values, color=_COLOURS[name], marker=".", label=_WORDS[name])
        axes.set_title(f"{task}, {regime}, {labels} labels", fontsize=9)
        axes.set_xlabel("steps", fontsize=8)
        axes.set_ylabel(SCORES[task] + (" (m)" if is_error(task) else " (%)"), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6)
    _save(figure, path)


def _panels() -> list[tuple[str, str, int]]:
    return [(task, regime, labels) for task in TASKS for regime in ("frozen", "full") for labels in LABELS]


def _save(figure: Any, path: Path) -> None:
    """In few colours, which is all that lines need."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
        with Image.open(temporary) as picture:
            small = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        small.save(temporary, optimize=True)
