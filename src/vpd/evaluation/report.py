"""What an evaluation found, for people: a table on screen, and a folder with scores, pages and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd.config import Fit
from vpd.data.sample import SampleSet
from vpd.drawing.text import one_line
from vpd.evaluation.evaluate import Evaluation
from vpd.evaluation.sheets import draw_sheet
from vpd.files.atomic import atomic_write, write_json
from vpd.metrics.depth import ERRORS
from vpd.tasks.table import TaskKind

PAGE, SCORES, SAMPLES = "report.md", "scores.json", "samples.jsonl"
"""Files of a report's folder; beside them lie `worst.png`, `typical.png` and `best.png`."""
SHOWN = 6
"""Samples on each picture."""
_LISTED = 20
_COUNTS = ("images", "sentences")
_IN_METRES = ("rmse", "sq_rel")


def write_report(folder: Path, report: Mapping[str, Any], evaluation: Evaluation, sample_set: SampleSet) -> None:
    """Write `report.md`, `scores.json`, `samples.jsonl` and sheets of the worst, typical and best samples.

    Args:
        folder: Where to; must exist.
        report: `evaluation.report()` with `model`, `data`, `format`, `split`, and other `settings`.
        evaluation: With its table.
        sample_set: What was measured, to show samples of.
    """
    scores = evaluation.scores()
    name = evaluation.task.score
    order = ranked([score[name] for score in scores], evaluation.task)
    write_json(folder / SCORES, dict(report))
    with atomic_write(folder / SAMPLES) as temporary, temporary.open("w", encoding="utf-8") as file:
        for entry, score in zip(evaluation.table, scores, strict=True):
            finite = {key: value if math.isfinite(value) else None for key, value in score.items()}
            line = {"index": entry.index, "name": entry.name, "group": entry.group, "metrics": finite}
            line |= {"texts": entry.texts} if entry.texts else {}
            file.write(json.dumps(line) + "\n")
    middle = [order[rank] for rank in sorted(range(len(order)), key=lambda rank: abs(2 * rank - len(order) + 1))]
    sheets = {"worst": order, "typical": middle, "best": order[::-1]} if order else {}
    for kind, candidates in sheets.items():
        places = spread(candidates, evaluation.groups)[:SHOWN]
        words = [_words(evaluation, place, scores[place][name]) for place in places]
        samples = [sample_set[evaluation.table[place].index] for place in places]
        caption = f"{kind} of {len(order)} samples by {name}, first of each group"
        with atomic_write(folder / f"{kind}.png") as temporary:
            draw_sheet(evaluation.protocol, samples, words=words, caption=caption).save(temporary)
    worst = [
        " · ".join((_words(evaluation, place, scores[place][name]), *map(_quoted, evaluation.table[place].texts)))
        for place in order[:_LISTED]
    ]
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text("\n".join(_page(report, worst, list(sheets))) + "\n", encoding="utf-8")


def ranked(scores: Sequence[float], task: TaskKind) -> list[int]:
    """Places of the scores from worst to best, those that are equal in their order; without NaN."""
    sign = -1 if task.score_is_error else 1  # errors shall be small
    known = [place for place, score in enumerate(scores) if not math.isnan(score)]
    return sorted(known, key=lambda place: sign * scores[place])


def spread(places: Sequence[int], groups: Sequence[Hashable]) -> list[int]:
    """The places in another order: the first of each group, then the others, so that not all are of one room."""
    firsts: dict[Hashable, int] = {}
    for place in places:
        firsts.setdefault(groups[place], place)
    return [*firsts.values(), *(place for place in places if firsts[groups[place]] != place)]


def metric_lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and 95 % interval of each metric, shares in per cent; a line with a heading has no value."""
    endings = report["protocol"]
    for ending, words in endings.items():
        yield words, "", ""
        for name, value in report["metrics"].items():
            if ending != max((other for other in endings if name.endswith(other)), key=len):
                continue
            interval = report["intervals"].get(name)
            ends = " to ".join(write_value(name, end) for end in interval) if interval else ""
            yield name, write_value(name, value), ends


def class_rows(report: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Name and values of each class, best IoU first; classes that are nowhere come last."""
    per_class = report["per_class"].items()
    ordered = sorted(per_class, key=lambda item: (math.isnan(item[1]["IoU"]), -item[1]["IoU"]))
    return [(name, {key: write_value(key, value) for key, value in values.items()}) for name, values in ordered]


def interval_words(report: Mapping[str, Any]) -> str:
    """What the intervals are made of, or why there is none."""
    groups, samples = report["groups"], report["samples"]
    if samples < 2:
        return "No intervals: there is one sample, so nothing says how others would differ."
    if groups < 2:
        return "No intervals: all samples belong to one group (one room, say), so nothing says how others would differ."
    of_what = f"{samples} samples" if groups == samples else f"{groups} groups of {samples} samples"
    return f"Intervals: 95 %, bootstrap over {of_what}."


def write_value(name: str, value: float) -> str:
    """A metric as people read it."""
    if math.isnan(value):
        return "–"
    if name.startswith(_COUNTS):
        return f"{value:.0f}"
    if name in ERRORS:  # shares within a ratio are given as fractions, as the benchmarks do
        return f"{value:.4f}" + (" m" if name in _IN_METRES else "")
    return f"{100 * value:.2f} %"


def _words(evaluation: Evaluation, place: int, score: float) -> str:
    name = evaluation.task.score
    return f"{evaluation.table[place].name} · {name.removeprefix('o')} {write_value(name, score)}"  # overall: of all


def _quoted(text: str) -> str:
    return f"“{text}”"


def _page(report: Mapping[str, Any], worst: Sequence[str], sheets: Sequence[str]) -> Iterator[str]:
    """Lines of the report as Markdown."""
    yield f"# {report['task']}: {_plain(report['model'])} on {_plain(report['data'])}, {_plain(report['split'])}"
    yield ""
    yield f"{count_words(report)}. {interval_words(report)}"
    for name, value, interval in metric_lines(report):
        if value:
            yield f"| {name} | {value} | {interval} |"
        else:
            yield from (
                "",
                f"**{name[:1].upper()}{name[1:]}**",
                "",
                "| metric | value | 95 % interval |",
                "|---|--:|--:|",
            )
    if rows := class_rows(report):
        columns = list(rows[0][1])
        yield from ("", "## Classes", "", f"| class | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns))
        for name, values in rows:
            yield f"| {_plain(name)} | {' | '.join(values.values())} |"
        yield from ("", "`share`: of the labelled pixels. –: the class is in neither labels nor predictions.")
    yield from (
        "",
        "## Worst samples",
        "",
        *(f"{number}. {_plain(line)}" for number, line in enumerate(worst, start=1)),
    )
    for sheet in sheets:
        yield from ("", f"## {sheet.capitalize()}", "", f"![{sheet} samples]({sheet}.png)")
    yield from ("", "## Settings", "", "| setting | value |", "|---|---|")
    yield f"| images | {Fit.model_validate(report['fit']).describe()} |"
    for name, value in {"layout": report["format"], **report["settings"]}.items():
        yield f"| {name} | {_plain(str(value))} |"


def count_words(report: Mapping[str, Any]) -> str:
    """How many samples were measured, of how many."""
    samples, available = report["samples"], report["available"]
    return f"{samples} samples" if samples == available else f"The first {samples} of {available} samples"


def _plain(text: str) -> str:
    """Somebody's words where they cannot be taken for Markdown."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>#|!&" else char for char in one_line(text))
