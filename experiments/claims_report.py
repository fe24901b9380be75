"""Tables and plots of the experiments on the paper's claims, from the lines that the runs left."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims_arms import FACTORS, LABELS, TASKS, Arm, paper_model, tiers
from experiments.claims_runs import metric_of, unpack_rows
from experiments.paired_intervals import Difference, half_width, paired_differences
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, read_json_lines, writable_folder
from vpd.tasks.table import find_task

METRIC: dict[str, str] = {name: find_task(name).score for name in TASKS}
"""Task -> the metric that its arms are compared by."""
REGIMES = ("frozen", "full", "gentle")
_COLOURS = {"text": "C0", "unconditional": "C1", "masked": "C2", "random": "C3", "text, empty prompts": "C4"}
Lines = dict[Arm, dict[int, dict[str, Any]]]
"""Arm -> seed -> line."""


def write_report(results: Path, out: Path) -> None:
    """Write `tables.md`, `curves.png` and `differences.png`.

    Raises:
        UsageError: If there is no finished run.
    """
    lines = read_lines(results)
    if not lines:
        raise UsageError(f"{results} holds no finished run: make some with `run` first.")
    folder = writable_folder(out)
    gaps = all_differences(lines)
    parts = ["# Measured", *(_table(lines, gaps, task) for task in TASKS), _steps_table(lines), _referring_table(lines)]
    with atomic_write(folder / "tables.md") as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    _plot_curves(lines, folder / "curves.png")
    _plot_differences(gaps, folder / "differences.png")


def read_lines(results: Path) -> Lines:
    """The runs that count.

    Raises:
        UsageError: If the file holds runs of other lengths or test scenes, or of one backbone with different weights.
    """
    lines: Lines = defaultdict(dict)
    settings: dict[str, str] = {}
    for line in read_json_lines(results):
        if not line["trial"]:
            made_with = line["key"].split(" ", 1)[1]
            of = f"{line['task']} with backbone {line['backbone']}, {line['regime']}"
            if settings.setdefault(of, made_with) != made_with:
                raise UsageError(
                    f"{results} mixes runs of {of}: {settings[of]} and {made_with}. Give runs of other settings or "
                    "weights a file of their own."
                )
            arm = Arm(**{name: line[name] for name in ("task", "labels", "regime", *FACTORS)})
            lines[arm][line["seed"]] = line
    return dict(lines)


def all_differences(lines: Lines) -> dict[Arm, tuple[int, Difference]]:
    """How far each arm lies above the paper's model, over so many seeds that both have."""
    gaps = {}
    for arm in ordered_arms(lines):
        base = paper_model(arm.task, arm.labels, arm.regime)
        gap = difference(lines, arm, base)
        if arm != base and gap is not None:
            gaps[arm] = gap
    return gaps


def difference(lines: Lines, arm: Arm, base: Arm, rows_of: str = "rows") -> tuple[int, Difference] | None:
    """Seeds that two arms share, and the paired difference of their scores; none where they share none."""
    seeds = sorted(seed for seed, line in lines.get(arm, {}).items() if seed in lines.get(base, {}) and line[rows_of])
    if not seeds:
        return None

    def stacked(which: Arm, field: str) -> Tensor:
        return torch.stack([unpack_rows(lines[which][seed][field]) for seed in seeds])

    gaps = paired_differences(metric_of(arm.task), stacked(arm, rows_of), stacked(base, "rows"))
    return len(seeds), gaps[METRIC[arm.task]]


def ordered_arms(lines: Lines) -> list[Arm]:
    """Arms that have runs, in the order of the plan."""
    return [arm for group in tiers() for arm in dict.fromkeys(group) if arm in lines]


def arm_words(arm: Arm) -> str:
    """What is different about an arm."""
    return ", ".join(f"{name} {value}" for name, value in arm.changed().items()) or "the paper's model (backbone text)"


def _shown(task: str, value: float) -> str:
    """Metres, or per cent."""
    return f"{value:.3f}" if task == "depth" else f"{100 * value:.1f}"


def _gap_words(task: str, seeds: int, gap: Difference) -> str:
    scale, digits = (1, 3) if task == "depth" else (100, 1)
    low, mean, high = (f"{scale * value:+.{digits}f}" for value in (gap.low, gap.mean, gap.high))
    if seeds < 2:  # one seed says nothing of how much seeds differ
        return f"{mean} (one seed)"
    clear = gap.low > 0 or gap.high < 0
    return f"{'**' if clear else ''}{mean} [{low}, {high}]{'**' if clear else ''}"


def _scores(lines: Lines, arm: Arm, field: str = "score") -> list[float]:
    """Of all seeds; what a report cannot count (a metric of nothing) is left out."""
    return [line[field] for line in lines.get(arm, {}).values() if line[field] is not None]


def _mean_words(task: str, values: list[float]) -> str:
    if not values:
        return "—"
    spread = f" ± {_shown(task, float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return _shown(task, float(np.mean(values))) + spread


def _table(lines: Lines, gaps: dict[Arm, tuple[int, Difference]], task: str) -> str:
    arms = [arm for arm in ordered_arms(lines) if arm.task == task]
    if not arms:
        return ""
    unit = "metres, less is better" if task == "depth" else "per cent, more is better"
    text = [
        f"## {task}: {METRIC[task]} ({unit})",
        "",
        "Mean over seeds ± their standard deviation; difference: minus the paper's model of the same regime and number "
        "of labels, with its 95 % interval (paired bootstrap over test scenes, Student's t over seeds; bold where it "
        "excludes zero). With a frozen UNet the paper's model has its adapter off.",
        "",
        "| regime | labels | arm | rate | seeds | score | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for regime in REGIMES:
        for labels in LABELS:
            for arm in [arm for arm in arms if (arm.regime, arm.labels) == (regime, labels)]:
                seeds, gap = gaps.get(arm, (len(lines[arm]), None))
                rates = sorted({f"{line['rate']:g}" for line in lines[arm].values()})
                cells = [regime, labels, arm_words(arm), "/".join(rates), seeds, _mean_words(task, _scores(lines, arm))]
                text.append(
                    "| " + " | ".join(map(str, [*cells, "" if gap is None else _gap_words(task, seeds, gap)])) + " |"
                )
    return "\n".join(text)


def _referring_table(lines: Lines) -> str:
    """With text, beside the control without and with the text of other scenes."""
    text = [
        "## refer: does it use the text? (oIoU, per cent)",
        "",
        "Each row has its own control that reads the empty text. *Shuffled at test* is the model of the first column "
        "given the expressions of other scenes; the interval is that of its difference from the control.",
        "",
        "| regime | labels | with text | no text (control) | ratio | text − control | shuffled in training − control "
        "| shuffled at test | shuffled at test − control |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    header = len(text)
    papers = [paper_model("refer", labels, regime) for regime in REGIMES for labels in LABELS]
    for base in dict.fromkeys(arm for paper in papers for arm in (paper, replace(paper, adapter="on"))):
        null, shuffled = (replace(base, prompt=prompt) for prompt in ("null", "shuffled"))
        if base not in lines or null not in lines:
            continue
        proper, control = (_scores(lines, arm) for arm in (base, null))
        ratio = _ratio_words(lines[base], lines[null])
        differences = [
            difference(lines, base, null),
            difference(lines, shuffled, null),
            difference(lines, base, null, "shuffled_rows"),
        ]
        words = ["—" if gap is None else _gap_words("refer", *gap) for gap in differences]
        at_test = _mean_words("refer", _scores(lines, base, "shuffled_score"))
        regime = base.regime if base in papers else f"{base.regime}, adapter on"
        cells = [regime, str(base.labels), _mean_words("refer", proper), _mean_words("refer", control), ratio]
        text.append("| " + " | ".join([*cells, words[0], words[1], at_test, words[2]]) + " |")
    return "\n".join(text) if len(text) > header else ""


def _ratio_words(proper: dict[int, dict[str, Any]], control: dict[int, dict[str, Any]]) -> str:
    """Mean over seeds of the ratio of scores, with the 95 % interval of Student's t."""
    scores = [(proper[seed]["score"], control[seed]["score"]) for seed in proper if seed in control]
    ratios = [score / other for score, other in scores if score is not None and other]
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}" if ratios else "—"
    mean, half = float(np.mean(ratios)), half_width(ratios)
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


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


def _steps_table(lines: Lines) -> str:
    text = [
        "## Steps to the best of the random backbone",
        "",
        "When the mean curve of a backbone first reaches the best that the random one's has, on the first test scenes.",
        "",
        "| task | regime | labels | target | text | unconditional | masked | random | of steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    header = len(text)
    for task, regime, labels in _panels():
        arms = _backbone_arms(lines, task, regime, labels)
        if "random" not in arms:
            continue
        steps, values = mean_curve(lines, arms["random"])
        target = values.min() if task == "depth" else values.max()
        cells = []
        for name in ("text", "unconditional", "masked", "random"):
            reached = None
            if name in arms:
                reached = steps_to(*mean_curve(lines, arms[name]), target, is_error=task == "depth")
            cells.append(
                "—"
                if name not in arms
                else "never"
                if reached is None
                else f"{'≤ ' if reached <= steps[0] else ''}{reached:.0f}"
            )
        text.append(
            f"| {task} | {regime} | {labels} | {_shown(task, target)} | {' | '.join(cells)} | {steps[-1]:.0f} |"
        )
    return "\n".join(text) if len(text) > header else ""


def _panels() -> list[tuple[str, str, int]]:
    return [(task, regime, labels) for task in TASKS for regime in REGIMES for labels in LABELS]


def _backbone_arms(lines: Lines, task: str, regime: str, labels: int) -> dict[str, Arm]:
    """Backbone -> the arm that differs from the paper's model in nothing else."""
    base = paper_model(task, labels, regime)
    arms = {arm.backbone: arm for arm in lines if Arm(**{**vars(arm), "backbone": "text"}) == base}
    return {name: arms[name] for name in ("text", "unconditional", "masked", "random") if name in arms}


def _plot_curves(lines: Lines, path: Path) -> None:
    from matplotlib.figure import Figure

    panels = [panel for panel in _panels() if _backbone_arms(lines, *panel)]
    columns = min(4, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows), layout="constrained")
    for place, (task, regime, labels) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        arms = _backbone_arms(lines, task, regime, labels)
        base, scale = paper_model(task, labels, regime), 1 if task == "depth" else 100
        silent = Arm(**{**vars(base), "prompt": "null"})
        shown = arms | ({"text, empty prompts": silent} if task == "refer" and silent in lines else {})
        for name, arm in shown.items():
            colour = _COLOURS[name]
            for line in lines[arm].values():
                one = np.array(line["curve"], dtype=float)
                axes.plot(one[:, 0], scale * one[:, 1], color=colour, alpha=0.25, linewidth=0.7)
            steps, values = mean_curve(lines, arm)
            axes.plot(steps, scale * values, color=colour, marker=".", label=name)
            if name == "random":
                axes.axhline(scale * values[-1], color=colour, linestyle=":", linewidth=1)
        if {"text", "random"} <= set(arms):
            target = mean_curve(lines, arms["random"])[1][-1]
            reached = steps_to(*mean_curve(lines, arms["text"]), target, is_error=task == "depth")
            if reached is not None:
                axes.axvline(reached, color="C0", linestyle=":", linewidth=1)
        axes.set_title(f"{task}, {regime}, {labels} labels", fontsize=9)
        axes.set_xlabel("steps", fontsize=8)
        axes.set_ylabel(METRIC[task] + (" (m)" if task == "depth" else " (%)"), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    _save(figure, path)


def _plot_differences(gaps: dict[Arm, tuple[int, Difference]], path: Path) -> None:
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys((arm.task, arm.regime) for arm in gaps)) or [("none", "none")]
    most = max([1, *(sum((arm.task, arm.regime) == kind for arm in gaps) for kind in kinds)])
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(5.2 * columns, rows * (1.1 + 0.2 * most)), layout="constrained")
    for place, (task, regime) in enumerate(kinds, start=1):
        axes = figure.add_subplot(rows, columns, place)
        arms = [arm for arm in gaps if (arm.task, arm.regime) == (task, regime)]
        for height, arm in enumerate(reversed(arms)):
            gap = gaps[arm][1]
            colour = "C0" if arm.labels == max(LABELS) else "C1"
            axes.plot([gap.low, gap.high], [height, height], color=colour, linewidth=1.5)
            axes.plot(gap.mean, height, marker="o", markersize=4, color=colour)
        names = [f"{arm_words(arm)} ({arm.labels})" for arm in reversed(arms)]
        axes.set_yticks(range(len(arms)), names, fontsize=7)
        axes.axvline(0, color="0.4", linewidth=0.8)
        better = "left" if task == "depth" else "right"
        axes.set_title(f"{task}, {regime}: {better} is better than the paper's model", fontsize=8)
        axes.set_xlabel(f"difference in {METRIC.get(task, '')}", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.locator_params(axis="x", nbins=5)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
