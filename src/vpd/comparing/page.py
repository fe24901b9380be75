"""What a comparison found: columns for a terminal, and one page that holds all it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path

from PIL import Image

from vpd.comparing.compare import Comparison
from vpd.data.sample import SampleSet
from vpd.drawing.charts import Axis, Bar, bar_chart, line_chart
from vpd.drawing.html import figure, legend, table, write_html
from vpd.drawing.overlays import Shown, fit_picture
from vpd.drawing.text import one_line
from vpd.evaluation.fitted_data import fit_classes
from vpd.evaluation.protocols import Protocol
from vpd.files.own_files import begins_with, check_own_folder
from vpd.loading import load
from vpd.metrics.intervals import Difference
from vpd.metrics.words import write_value

PAGE = "compare.html"
_TITLE = "vpd compare: "
_SAMPLES, _CELL_PX, _MOST_CHARS = 10, 320, 60


def screen_lines(comparison: Comparison) -> Iterator[str]:
    """Runs, settings that differ, and metrics with differences from the first, for a terminal."""
    for contestant in comparison.contestants:
        yield f"{contestant.letter}  {one_line(contestant.source)}"
    letters = [contestant.letter for contestant in comparison.contestants]
    settings = [(key, *map(_cut, values)) for key, values in comparison.settings_that_differ()]
    yield ""
    yield from _columns(("setting", *letters), settings or [("none differs", *[""] * len(letters))])
    yield ""
    yield from _columns(_metric_header(letters), _metric_rows(comparison))
    yield _interval_words(comparison)


def check_own_page(folder: Path) -> None:
    """Make sure that a folder has no `compare.html` but one of an earlier comparison.

    Raises:
        UsageError: If it has.
    """
    check_own_folder(folder, [PAGE], "`vpd compare`", is_own=partial(begins_with, words=f"<title>{_TITLE}"))


def write_page(folder: Path, comparison: Comparison, samples: SampleSet, *, device: str = "auto") -> Path:
    """Write `compare.html` into a folder; the models are read again for the pictures."""
    title = _TITLE + " and ".join(contestant.source for contestant in comparison.contestants)
    write_html(folder / PAGE, title, "\n".join(_body(comparison, samples, device)))
    return folder / PAGE


def _body(comparison: Comparison, samples: SampleSet, device: str) -> Iterator[str]:
    letters = [contestant.letter for contestant in comparison.contestants]
    yield f"<h1>Compared: {escape(comparison.task.config_type.title)}</h1>"
    yield table(("", "run or model"), [(contestant.letter, contestant.source) for contestant in comparison.contestants])
    metrics = table(_metric_header(letters), _metric_rows(comparison), numbers=True)
    yield f'<section><h2>Metrics</h2>{metrics}<p class="small">{escape(_interval_words(comparison))}</p></section>'
    settings = [(key, *values) for key, values in comparison.settings_that_differ()]
    told = table(("setting", *letters), settings) if settings else "<p>None that is known.</p>"
    yield f"<section><h2>Settings that differ</h2>{told}</section>"
    if curves := _curves(comparison):
        yield f"<section><h2>In training</h2>{curves}</section>"
    for number, letter in enumerate(letters[1:], start=1):
        if of_classes := comparison.class_differences(number):
            chart = _class_bars(of_classes)
            yield f"<section><h2>IoU of the classes, {letter} − {letters[0]}, points</h2>{chart}</section>"
    yield f"<section><h2>Samples that differ most</h2>{_samples(comparison, samples, device)}</section>"


def _metric_header(letters: Sequence[str]) -> tuple[str, ...]:
    return ("metric", *letters, *(f"{letter} − {letters[0]} (95 % interval)" for letter in letters[1:]))


def _metric_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    differences = [comparison.differences(number) for number in range(1, len(comparison.contestants))]
    return [
        (name, *(write_value(name, value) for value in values), *(_told(name, each[name]) for each in differences))
        for name, values in comparison.metrics().items()
    ]


def _told(name: str, difference: Difference) -> str:
    """A difference with its interval; `*` where 0 lies outside it."""
    numbers, units = zip(*(_signed(name, number) for number in difference), strict=True)
    if math.isnan(difference.low):
        return f"{numbers[0]}{units[0]}"
    return f"{numbers[0]}{units[0]} ({numbers[1]} to {numbers[2]}){' *' if difference.is_clear else ''}"


def _signed(name: str, value: float) -> tuple[str, str]:
    """A difference and its unit; shares differ by points."""
    number, space, unit = write_value(name, value).partition(" ")
    return f"{'+' if value > 0 else ''}{number.replace('-', '−')}", space + unit.replace("%", "points")


def _interval_words(comparison: Comparison) -> str:
    first = comparison.evaluations[0]
    samples, groups = len(first.table), len(set(first.groups))
    if groups < 2:
        return f"{samples} samples of one group: nothing says how others would differ."
    of = "" if groups == samples else f" in {groups} groups"
    return (
        f"{samples} samples{of}. Paired bootstrap, the same draws for all; * = 0 lies outside. It says nothing of "
        "other training runs."
    )


def _curves(comparison: Comparison) -> str:
    name, curves = comparison.task.score, {}
    for contestant in comparison.contestants:
        lines = [line for line in contestant.log if line["kind"] == "validation" and line.get(name) is not None]
        if lines:
            curves[contestant.letter] = [(float(line["step"]), float(line[name])) for line in lines]
    if not curves:
        return ""
    points = [point for curve in curves.values() for point in curve]
    x = Axis.around("optimiser steps", [step for step, _ in points], start=0)
    return line_chart(curves, x, Axis.around(f"{name} in validation", [score for _, score in points], start=0))


def _class_bars(differences: dict[str, Difference]) -> str:
    known = {name: each for name, each in differences.items() if math.isfinite(each.value)}
    ends = [end for each in known.values() for end in each if math.isfinite(end)]
    most = max([0.01, *(abs(end) for end in ends)])
    bars = [
        Bar(name, each.value, _points(each), each.low, each.high)
        for name, each in sorted(known.items(), key=lambda item: -item[1].value)
    ]
    return bar_chart(bars, start=-most, end=most)


def _points(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f}{' *' if difference.is_clear else ''}".replace("-", "−")


def _samples(comparison: Comparison, samples: SampleSet, device: str) -> str:
    """Picture, truth and every prediction of the samples in which models are furthest apart."""
    places, shown = comparison.samples_that_differ(_SAMPLES), list[list[Shown]]()
    for contestant in comparison.contestants:  # one model at a time
        model = load(contestant.source, device=device)
        own = fit_classes(model, samples)
        protocol = Protocol(model, own)
        shown.append([protocol.shown(own[comparison.evaluations[0].table[place].index]) for place in places])
        del model, protocol
    scores, name, parts = comparison.scores(), comparison.task.score, []
    for row, place in enumerate(places):
        entry, of_models = comparison.evaluations[0].table[place], [each[row] for each in shown]
        pictures = {"picture": Image.fromarray(samples[entry.index].image), "truth": of_models[0].truth}
        for contestant, each, score in zip(comparison.contestants, of_models, scores, strict=True):
            pictures[f"{contestant.letter}: {write_value(name, score[place])}"] = each.prediction
        figures = [figure(fit_picture(picture, _CELL_PX), words, as_photo=True) for words, picture in pictures.items()]
        told = escape(" · ".join(filter(None, (entry.name, of_models[0].words))))
        colours = [colour for colour, count in of_models[0].legend.most_common() if count]
        parts.append(f'<h3>{told}</h3><div class="row">{"".join(figures)}</div>{legend(colours) if colours else ""}')
    return "\n".join(parts) or "<p>None does.</p>"


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells in columns as wide as their widest."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cut(value: str) -> str:
    value = one_line(value)
    return value if len(value) <= _MOST_CHARS else value[: _MOST_CHARS - 1] + "…"
