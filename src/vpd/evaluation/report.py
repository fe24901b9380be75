"""What an evaluation found, for people: a table on screen, and a folder with scores, pages and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd.config import Resize
from vpd.data.sample import SampleSet
from vpd.drawing.text import one_line
from vpd.evaluation.evaluate import Evaluation
from vpd.evaluation.groups import FEW
from vpd.evaluation.protocols import draw_sheet
from vpd.files.atomic import atomic_write, write_json
from vpd.metrics.depth import EDGES, ERRORS
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

    def words(place: int) -> str:
        return f"{evaluation.table[place].name} · {name.removeprefix('o')} {write_value(name, scores[place][name])}"

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
        samples = [sample_set[evaluation.table[place].index] for place in places]
        caption = f"{kind} of {len(order)} samples by {name}, first of each group"
        with atomic_write(folder / f"{kind}.png") as temporary:
            sheet = draw_sheet(evaluation.protocol, samples, words=list(map(words, places)), caption=caption)
            sheet.save(temporary)
    worst = [
        " · ".join((words(place), *(f"“{text}”" for text in evaluation.table[place].texts)))
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


def screen_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Metrics with their intervals and a line for each class, in columns for a terminal; `report` as above."""
    yield f"{report['data']} ({report['format']}, {report['split']}): {count_words(report)}, {report['model']}"
    yield f"Images: {_fit_words(report)}."
    for note, count in report.get("notes", {}).items():
        yield f"To stay within the memory, {count} of them were run {note}: no published protocol."
    classes = [(one_line(name), values) for name, values in class_rows(report)]  # nothing for the terminal to obey
    width = max(len(name) for name in (*report["metrics"], *(name for name, _ in classes))) + 2
    for heading, rows in metric_rows(report):
        yield f"\n{heading}\n{'':<{width}}{'value':>11}   95 % interval"
        for name, value, interval in rows:
            yield f"{name:<{width}}{value:>11}   {interval}".rstrip()
    yield interval_words(report)
    if classes:
        yield f"\n{'class':<{width}}" + "".join(f"{column:>11}" for column in classes[0][1])
    for name, values in classes:
        yield f"{name:<{width}}" + "".join(f"{value:>11}" for value in values.values())


def _page(report: Mapping[str, Any], worst: Sequence[str], sheets: Sequence[str]) -> Iterator[str]:
    """Lines of the report as Markdown."""
    yield f"# {report['task']}: {_plain(report['model'])} on {_plain(report['data'])}, {_plain(report['split'])}"
    yield from ("", f"{count_words(report)}. {_plain(interval_words(report))}")
    for heading, rows in metric_rows(report):
        yield from ("", f"**{heading}**", "", *_table(("metric", "value", "95 % interval"), rows, "--:"))
    if classes := class_rows(report):
        cells = ((_plain(name), *values.values()) for name, values in classes)
        yield from ("", "## Classes", "", *_table(("class", *classes[0][1]), cells, "--:"))
        yield from ("", "`share`: of the labelled pixels. –: the class is in neither labels nor predictions.")
    yield from ("", "## Worst samples", "")
    for number, line in enumerate(worst, start=1):
        yield f"{number}. {_plain(line)}"
    for sheet in sheets:
        yield from ("", f"## {sheet.capitalize()}", "", f"![{sheet} samples]({sheet}.png)")
    settings = {"layout": report["format"], **report["settings"]}
    told = (("images", _fit_words(report)), *((name, _plain(str(value))) for name, value in settings.items()))
    yield from ("", "## Settings", "", *_table(("setting", "value"), told, "---"))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], rule: str) -> Iterator[str]:
    """A table in Markdown; `rule` is that of all columns but the first."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join(['---', *[rule] * (len(header) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def metric_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """What was measured, and name, value and 95 % interval of its metrics, shares in per cent."""
    endings = report["protocol"]
    of_ending: dict[str, list[tuple[str, str, str]]] = {ending: [] for ending in endings}
    for name, value in report["metrics"].items():
        interval = report["intervals"].get(name, ())
        row = (name, write_value(name, value), " to ".join(write_value(name, end) for end in interval))
        of_ending[max(filter(name.endswith, endings), key=len)].append(row)
    for ending, words in endings.items():
        yield words[:1].upper() + words[1:], of_ending[ending]


def class_rows(report: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Name and values of each class, best IoU first; classes that are nowhere come last."""
    per_class = report["per_class"].items()
    ordered = sorted(per_class, key=lambda item: (math.isnan(item[1]["IoU"]), -item[1]["IoU"]))
    return [(name, {key: write_value(key, value) for key, value in values.items()}) for name, values in ordered]


def interval_words(report: Mapping[str, Any]) -> str:
    """What the intervals are made of, or why there is none."""
    groups, samples, made_by = report["groups"], report["samples"], report.get("grouped_by", "data")
    are_frames = made_by == "recording"
    if samples < 2:
        return "No intervals: there is one sample, so nothing says how others would differ."
    hint = " Recordings are told by the names up to their last number; --group-by makes other groups." * are_frames
    if groups < 2:
        what = f"{samples} samples are frames of one recording" if are_frames else "samples belong to one group"
        like = "" if are_frames or made_by != "data" else " (one room, say)"
        return f"No intervals: all {what}{like}, so nothing says how others would differ.{hint}"
    weak = f" With only {groups} of these to draw from they are weak: take them for a lower bound." * (groups < FEW)
    if groups == samples:
        return f"Intervals: 95 %, bootstrap over {samples} samples.{weak}"
    if are_frames:
        return f"{samples} frames of {groups} recordings. Intervals: 95 %, bootstrap over recordings.{weak}{hint}"
    by = f" (by {made_by})" if made_by not in ("", "data") else ""
    return f"Intervals: 95 %, bootstrap over {groups} groups of {samples} samples{by}.{weak}"


def count_words(report: Mapping[str, Any]) -> str:
    """How many samples were measured, of how many."""
    samples, available = report["samples"], report["available"]
    return f"{samples} samples" if samples == available else f"The first {samples} of {available} samples"


def write_value(name: str, value: float) -> str:
    """A metric as people read it."""
    if math.isnan(value):
        return "–"
    if name.startswith(_COUNTS):
        return f"{value:.0f}"
    if (error := name.removesuffix(EDGES)) in ERRORS:  # shares within a ratio are fractions, as in the benchmarks
        return f"{value:.4f}" + (" m" if error in _IN_METRES else "")
    return f"{100 * value:.2f} %"


def _fit_words(report: Mapping[str, Any]) -> str:
    return Resize.model_validate(report["fit"]).describe()


def _plain(text: str) -> str:
    """Somebody's words where they cannot be taken for Markdown."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>#|!&" else char for char in one_line(text))
