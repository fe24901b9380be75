"""The folder that an evaluation leaves: one page that holds all it shows, and its data."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from vpd.data.sample import SampleSet
from vpd.drawing.html import figure, legend, table, write_html
from vpd.drawing.overlays import fit_picture
from vpd.evaluation.charts import sections
from vpd.evaluation.choosing import different_failures, ranked, spread, usual
from vpd.evaluation.evaluate import Evaluation
from vpd.evaluation.report import count_words, fit_words, interval_words, metric_rows
from vpd.files.atomic import atomic_write, write_json
from vpd.metrics.words import write_value

PAGE, SCORES, SAMPLES, COUNTS = "report.html", "scores.json", "samples.jsonl", "counts.json"
"""Files of a report's folder."""
REPORT_FILES = (SCORES, COUNTS, SAMPLES, PAGE)
"""In the order in which they are written."""
KEYS = ("task", "metrics")
"""What `scores.json` has, and whatever else holds the results of `vpd eval`."""
FAILURES, USUAL, BEST = 12, 4, 4
"""Samples that the page shows."""
_CELL_PX = 320
_MOST_ROWS = 15


def write_report(folder: Path, report: Mapping[str, Any], evaluation: Evaluation, sample_set: SampleSet) -> None:
    """Write `report.html`, `scores.json`, `samples.jsonl`, and what the charts are drawn from, `counts.json`.

    Args:
        folder: Where to; must exist.
        report: `evaluation.report()` with `model`, `data`, `format`, `split`, and other `settings`.
        evaluation: Of `measure` with `diagnose`.
        sample_set: What was measured, to show samples of.
    """
    scores = evaluation.scores()
    write_json(folder / SCORES, dict(report))
    write_json(folder / COUNTS, {name: counts.tolist() for name, counts in evaluation.counts.items()})
    with atomic_write(folder / SAMPLES) as temporary, temporary.open("w", encoding="utf-8") as file:
        for entry, score in zip(evaluation.table, scores, strict=True):
            finite = {key: value if math.isfinite(value) else None for key, value in score.items()}
            line = {"index": entry.index, "name": entry.name, "group": entry.group, "metrics": finite}
            line |= {"texts": entry.texts} if entry.texts else {}
            line |= {"kind": entry.kind} if entry.kind else {}
            file.write(json.dumps(line) + "\n")
    title = f"{report['task']}: {report['model']} on {report['data']}, {report['split']}"
    body = "\n".join(_body(title, report, evaluation, sample_set, [each[evaluation.task.score] for each in scores]))
    write_html(folder / PAGE, title, body)


def _body(
    title: str, report: Mapping[str, Any], evaluation: Evaluation, sample_set: SampleSet, scores: Sequence[float]
) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1><p>{escape(f'{count_words(report)}. {interval_words(report)}')}</p>"
    for heading, rows in metric_rows(report):
        yield f"<h3>{escape(heading)}</h3>" + table(("metric", "value", "95 % interval"), rows, numbers=True)
    for name, chart in sections(evaluation, report, scores):
        yield f"<section><h2>{escape(name)}</h2>{chart}</section>"
    order = ranked(scores, evaluation.task)
    kinds, groups = [entry.kind for entry in evaluation.table], evaluation.groups
    if order and any(kinds):
        yield f"<section><h2>Kinds of errors</h2>{_kinds(evaluation, scores, order)}</section>"
    failures = different_failures(order, kinds, groups, FAILURES)
    shown = set(failures)
    chosen = {"Failures that differ": failures}
    chosen["Usual"] = [place for place in usual(order, groups, len(order)) if place not in shown][:USUAL]
    shown |= set(chosen["Usual"])
    chosen["Best"] = [place for place in spread(order[::-1], groups) if place not in shown][:BEST]
    for name, places in chosen.items():
        if places:
            pictures = "\n".join(
                _sample(evaluation, sample_set, place, scores[place], is_first=not number)
                for number, place in enumerate(places)
            )
            yield f"<section><h2>{name}</h2>{pictures}</section>"
    if order and 1 < len(set(groups)) < len(groups):
        yield f"<section><h2>Groups, worst first</h2>{_groups(evaluation, scores)}</section>"
    settings = {"layout": report["format"], **report["settings"]}
    told = [("images", fit_words(report)), *((name, str(value)) for name, value in settings.items())]
    yield f"<section><h2>Settings</h2>{table(('setting', 'value'), told)}</section>"


def _sample(evaluation: Evaluation, sample_set: SampleSet, place: int, score: float, *, is_first: bool) -> str:
    """Picture, truth, prediction and errors of a sample, with what is wrong; the first says what colours mean."""
    entry, name = evaluation.table[place], evaluation.task.score
    sample = sample_set[entry.index]
    shown = evaluation.protocol.shown(sample)
    pictures = {"picture": Image.fromarray(sample.image), "truth": shown.truth, "prediction": shown.prediction}
    pictures |= {"errors": shown.errors} if shown.errors else {}
    figures = "".join(
        figure(fit_picture(picture, _CELL_PX), caption, as_photo=True) for caption, picture in pictures.items()
    )
    words = [entry.name, f"{name.removeprefix('o')} {write_value(name, score)}", entry.kind, shown.words]
    words += [f"colours from {shown.scale_m[0]:.2f} to {shown.scale_m[1]:.2f} m"] if shown.scale_m else []
    colours = [entry for entry, count in shown.legend.most_common() if count]
    colours += [entry for entry in shown.error_legend if is_first and entry not in colours]
    told = escape(" · ".join(filter(None, words)))
    return f'<h3>{told}</h3><div class="row">{figures}</div>{legend(colours) if colours else ""}'


def _kinds(evaluation: Evaluation, scores: Sequence[float], order: Sequence[int]) -> str:
    """How many samples have each kind of error, and their mean score; the most frequent first."""
    of_kind = defaultdict[str, list[float]](list)
    for place in order:
        of_kind[evaluation.table[place].kind or "nothing wrong"].append(scores[place])
    return _means(of_kind, "largest error of a sample", evaluation, key=lambda item: -len(item[1]))


def _groups(evaluation: Evaluation, scores: Sequence[float]) -> str:
    of_group = defaultdict[str, list[float]](list)
    for entry, score in zip(evaluation.table, scores, strict=True):
        if not math.isnan(score):
            of_group[entry.name if entry.group is None else entry.group].append(score)
    sign = -1 if evaluation.task.score_is_error else 1
    return _means(of_group, "group", evaluation, key=lambda item: sign * sum(item[1]) / len(item[1]))


def _means(values: Mapping[str, Sequence[float]], what: str, evaluation: Evaluation, *, key: Any) -> str:
    name = evaluation.task.score
    rows = [
        (each, str(len(found)), write_value(name, sum(found) / len(found)))
        for each, found in sorted(values.items(), key=key)[:_MOST_ROWS]
    ]
    more = f'<p class="small">And {len(values) - _MOST_ROWS} more.</p>' if len(values) > _MOST_ROWS else ""
    return table((what, "samples", f"mean {name.removeprefix('o')}"), rows, numbers=True) + more
