"""Charts of what an evaluation measured and counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vpd.drawing.charts import Axis, Bar, bar_chart, column_chart, line_chart, matrix_chart
from vpd.drawing.html import table
from vpd.evaluation.evaluate import Evaluation
from vpd.metrics.distances import DISTANCES, error_quantiles
from vpd.metrics.intervals import class_intervals
from vpd.metrics.thresholds import STEPS, threshold_curves
from vpd.metrics.words import write_value

_MOST_CELLS, _MOST_PAIRS, _COLUMNS = 25, 10, 20


def sections(evaluation: Evaluation, report: Mapping[str, Any], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Title and HTML of every chart that there is something for.

    Args:
        evaluation: With what diagnoses counted.
        report: Of it.
        scores: Of each sample alone.
    """
    if report["per_class"]:
        yield "Classes", _class_bars(evaluation, report)
    if (confusion := evaluation.counts.get("confusion")) is not None:
        true = evaluation.rows().sum(dim=0)[2]
        yield "What is taken for what", _confusion(confusion, true, evaluation.classes)
    if (thresholds := evaluation.counts.get("thresholds")) is not None:
        pixels = int(evaluation.counts["object_pixels"])
        yield "Thresholds", _thresholds(thresholds, pixels, len(evaluation.table), evaluation.protocol.cut)
    if (distances := evaluation.counts.get("distances")) is not None:
        yield "Error by distance", _distances(distances, evaluation.protocol.metrics[""].max_depth_m)  # type: ignore[attr-defined]
    yield "Samples", _score_columns(scores, evaluation.task.score, is_error=evaluation.task.score_is_error)


def _class_bars(evaluation: Evaluation, report: Mapping[str, Any]) -> str:
    values, names = report["per_class"], list(report["per_class"])
    ends = class_intervals(evaluation.protocol.metrics[""], evaluation.rows(), evaluation.groups, "IoU")
    bars = []
    order = sorted(range(len(names)), key=lambda place: _best_first(values[names[place]]["IoU"]))
    for number in order:
        of_class = values[names[number]]
        low, high = ends[number] if ends else (math.nan, math.nan)
        told = {key: write_value(key, value) for key, value in of_class.items()}
        hint = f"{names[number]}: IoU {told['IoU']}, accuracy {told['Acc']}, {told['share']} of the labelled pixels"
        words = f"{told['IoU']}  ·  {told['share']}"
        bars.append(Bar(names[number], of_class["IoU"], words, low, high, hint))
    told_of = "IoU with its 95 % interval · share of the labelled pixels. –: neither in labels nor in predictions."
    return bar_chart(bars, end=1.0) + f'<p class="small">{told_of}</p>'


def _confusion(confusion: Tensor, true: Tensor, classes: Sequence[str]) -> str:
    """Matrix of the classes with most wrong pixels, and the largest confusions in words; `true` pixels of each."""
    cells = confusion.numpy()
    wrong = cells * (1 - np.eye(len(cells), dtype=np.int64))
    order = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
    shown = np.sort(order[:_MOST_CELLS])
    totals = true.numpy()[:, None]
    shares = np.where(totals > 0, cells / np.maximum(totals, 1), np.nan)[np.ix_(shown, shown)]
    chart = matrix_chart(shares, [classes[n] for n in shown], rows="truth", columns="prediction")
    few = f" Shown: the {len(shown)} of {len(classes)} classes with most wrong pixels."
    few *= len(shown) < len(classes)
    few += " Pixels of which no class was predicted are in no column." * bool((totals[:, 0] > cells.sum(axis=1)).any())
    largest = [int(cell) for cell in np.argsort(-wrong.ravel(), kind="stable")[:_MOST_PAIRS] if wrong.ravel()[cell]]
    rows = []
    for truth, guess in (divmod(cell, len(cells)) for cell in largest):
        count = wrong[truth, guess]
        shares_of = _percent(count / wrong.sum()), _percent(count / totals[truth, 0])
        rows.append((f"{classes[truth]} → {classes[guess]}", *shares_of))
    told = f'<p class="small">Per cent of the pixels of each true class, by predicted class.{few}</p>'
    header = ("truth → prediction", "of all wrong pixels", "of the class")
    return chart + told + (table(header, rows, numbers=True) if rows else "<p>No pixel is wrong.</p>")


def _thresholds(counts: Tensor, pixels: int, samples: int, cut: float | None) -> str:
    curves = {name: values.numpy() for name, values in threshold_curves(counts, pixels=pixels, samples=samples).items()}
    if not pixels:
        return "<p>No sample has an object.</p>"
    best = int(np.nanargmax(curves["oIoU"]))
    marks = {f"best oIoU, at {best / STEPS:g}": best}
    if cut is not None:
        marks[f"as measured, at {cut:g}"] = round(cut * STEPS)
    points = list(zip((100 * curves["recall"]).tolist(), (100 * curves["precision"]).tolist(), strict=True))
    lines = {"": points[::-1]} | {name: [points[place]] for name, place in marks.items()}
    recall = line_chart(lines, Axis("recall of the objects' pixels, %", 0, 100), Axis("precision, %", 0, 100))
    at = [place / STEPS for place in range(STEPS + 1)]
    by_cut = {name: list(zip(at, (100 * curves[name]).tolist(), strict=True)) for name in ("oIoU", "P@0.5")}
    shares = line_chart(by_cut, Axis("probability above which pixels belong to the mask", 0, 1), Axis("%", 0, 100))
    now = "" if cut is None else f" Measured at {cut:g}: {_percent(curves['oIoU'][round(cut * STEPS)])}."
    told = f"Highest oIoU {_percent(curves['oIoU'][best])}, at {best / STEPS:g}.{now} Pixels of all sentences together."
    return f'{recall}{shares}<p class="small">{told}</p>'


def _distances(counts: Tensor, far_m: float) -> str:
    step, pixels = far_m / DISTANCES, counts.sum(dim=1).tolist()
    centres = [(row + 0.5) * step for row in range(DISTANCES)]
    signed = 100 * error_quantiles(counts, (0.1, 0.5, 0.9), signed=True)
    size = 100 * error_quantiles(counts, (0.5, 0.9), signed=False)
    known = [row for row in range(DISTANCES) if pixels[row]]
    if not known:
        return "<p>No pixel counts.</p>"
    x = Axis("true distance, m", known[0] * step, (known[-1] + 1) * step)
    sizes = {name: [(centres[row], size[row, n]) for row in known] for n, name in enumerate(("median", "90 % below"))}
    ends = signed[known].ravel().tolist()
    direction = line_chart(
        {"median": [(centres[row], signed[row, 1]) for row in known]},
        x,
        Axis(
            "too near (−) or too far (+), %; the band holds 80 % of the pixels", min([-1.0, *ends]), max([1.0, *ends])
        ),
        bands={"median": [(centres[row], signed[row, 0], signed[row, 2]) for row in known]},
    )
    error = line_chart(sizes, x, Axis.around("error, % of the true distance", size[known].ravel().tolist(), start=0))
    columns = column_chart([pixels[row] for row in range(known[0], known[-1] + 1)], x, y_label="pixels")
    return f"{error}{direction}{columns}"


def _score_columns(scores: Sequence[float], name: str, *, is_error: bool) -> str:
    known = [score for score in scores if math.isfinite(score)]
    if not known:
        return "<p>No sample counts.</p>"
    end = max(known) * 1.0001 or 1.0
    unit = ", m" if write_value(name, 0.0).endswith(" m") else ""
    axis = Axis(f"{name.removeprefix('o')} of a sample{unit}", 0.0, end if is_error else 1.0)
    counts, _ = np.histogram(known, bins=_COLUMNS, range=(axis.start, axis.end))
    left_out = len(scores) - len(known)
    told = f'<p class="small">{left_out} of {len(scores)} samples have nothing that counts.</p>' if left_out else ""
    return column_chart(counts.tolist(), axis, y_label="samples") + told


def _best_first(value: float) -> tuple[bool, float]:
    return math.isnan(value), -value


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
