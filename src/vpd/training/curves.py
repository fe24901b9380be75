"""The course of a run as a picture, drawn from its log: loss, learning rate, scores, IoU of each class."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd.drawing.charts import Axis, line_chart, write_svg
from vpd.files.atomic import read_json_lines
from vpd.metrics.words import number_of
from vpd.tasks.table import TaskKind

logger = logging.getLogger(__name__)

CURVES, LOG = "curves.svg", "log.jsonl"
"""Files of a run."""
_MOST_CLASSES, _MOST_POINTS, _SMALL = 16, 600, (720, 300)


def draw_curves(folder: Path, task: TaskKind) -> None:
    """Draw `curves.svg` of a run anew; a disk that is full costs the picture, not the run."""
    try:
        if charts := run_charts(read_json_lines(folder / LOG), task):
            write_svg(folder / CURVES, charts)
    except OSError as error:
        logger.warning("%s cannot be drawn: %s", folder / CURVES, error.strerror or error)


def run_charts(lines: Sequence[Mapping[str, Any]], task: TaskKind) -> list[tuple[str, str]]:
    """Title and chart of what the lines of a log hold."""
    steps = [line["step"] for line in lines]
    if not steps or max(steps) <= 0:
        return []
    x = Axis("optimiser steps", 0, max(steps))
    train, measured = ([line for line in lines if line["kind"] == kind] for kind in ("train", "validation"))
    charts, name = [], getattr(task, "score", "")  # a small encoder has none
    if loss := _points(train, "loss"):
        charts.append(("Training loss", line_chart({"loss": loss}, x, Axis.around("", _values(loss)), size=_SMALL)))
    if scores := _points(measured, name):
        sign = -1 if getattr(task, "score_is_error", False) else 1
        best = max(
            (point for point in scores if math.isfinite(point[1])), key=lambda point: sign * point[1], default=None
        )
        curves = {name: scores} | ({f"best: {best[1]:.4g} after {best[0]:g}": [best]} if best else {})
        chart = line_chart(curves, x, Axis.around("", _values(scores), start=0), size=_SMALL)
        charts.append((f"{name} in validation", chart))
    of_classes = _classes(line for line in lines if line["kind"] == "measured")
    if len(of_classes) > 1:
        shown = _ends(of_classes)
        title = "IoU of each class in validation"
        title += f" ({len(shown)} of {len(of_classes)}: the lowest and the highest)" * (len(shown) < len(of_classes))
        charts.append((title, line_chart(shown, x, Axis("", 0, 1))))
    if rate := _points(train, "learning_rate"):
        charts.append(
            ("Learning rate", line_chart({"rate": rate}, x, Axis.around("", _values(rate), start=0), size=_SMALL))
        )
    return charts


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Steps and values; of very many lines the means of neighbours."""
    points = [(float(line["step"]), number_of(line[name])) for line in lines if name in line]
    size = math.ceil(len(points) / _MOST_POINTS) or 1
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _values(points: Iterable[tuple[float, float]]) -> list[float]:
    return [value for _, value in points]


def _classes(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, values in line.get("per_class", {}).items():
            curves.setdefault(name, []).append((float(line["step"]), number_of(values["IoU"])))
    return curves


def _ends(curves: Mapping[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """The curves that end lowest and highest, where there are too many; highest first."""
    last = {
        name: next((value for _, value in reversed(points) if math.isfinite(value)), -1.0)
        for name, points in curves.items()
    }
    order = sorted(curves, key=lambda name: -last[name])
    half = _MOST_CLASSES // 2
    chosen = order if len(order) <= _MOST_CLASSES else [*order[:half], *order[-half:]]
    return {name: curves[name] for name in chosen}
