"""Charts as SVG, for pages and for files of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpd.drawing.colours import class_colours
from vpd.drawing.text import round_steps
from vpd.files.atomic import atomic_write

Points = Sequence[tuple[float, float]]
"""`(x, y)` with x ascending; not finite = a gap."""

_INK, _GRID = "#222228", "#dddde2"
_LEFT, _BOTTOM, _MARGIN, _FONT_PX = 64, 52, 16, 14
_MOST_MARKED = 40
_BAR_PX = 22


@dataclass(frozen=True)
class Axis:
    """From where to where a chart goes, and what that is."""

    label: str
    start: float
    end: float

    @classmethod
    def around(cls, label: str, values: Sequence[float], *, start: float | None = None) -> Axis:
        """One that holds all finite values; `start` is its first value where it is given."""
        known = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(known) if start is None else start, max(known)
        return cls(label, low, high if high > low else low + 1)


@dataclass(frozen=True)
class Bar:
    """A bar with an interval."""

    name: str
    value: float
    words: str
    """Its value as people read it."""
    low: float = math.nan
    high: float = math.nan
    hint: str = ""
    """Shown where the pointer rests on it."""


def curve_colour(number: int) -> str:
    """Colour of the curve of a number, from 0."""
    return "#{:02x}{:02x}{:02x}".format(*class_colours()[number % 256].tolist())


def line_chart(
    curves: Mapping[str, Points],
    x: Axis,
    y: Axis,
    *,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    size: tuple[int, int] = (720, 420),
) -> str:
    """Curves, name -> points, each with its name at its end.

    Args:
        curves: Name -> points.
        x: The axis from left to right.
        y: The axis from bottom to top.
        bands: Name of a curve -> `(x, low, high)`, drawn behind it in its colour.
        size: Width and height, pixels.
    """
    width, height = size
    right = width - 24 - round(0.55 * _FONT_PX * max([4, *map(len, curves)]))

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * (value - x.start) / (x.end - x.start)

    def up(value: float) -> float:
        return height - _BOTTOM - (height - _BOTTOM - 3 * _MARGIN) * (value - y.start) / (y.end - y.start)

    parts = []
    for value, words in round_steps(y.start, y.end, 5):
        parts.append(_line((_LEFT, up(value)), (right, up(value)), _GRID, 1))
        parts.append(_words(_LEFT - 8, up(value) + 5, words, "end"))
    parts += [_words(across(value), height - _BOTTOM + 20, words) for value, words in round_steps(x.start, x.end, 6)]
    parts.append(_words((_LEFT + right) / 2, height - 10, x.label))
    parts.append(_words(_MARGIN, 2 * _MARGIN - 8, y.label, "start"))
    ends: list[tuple[float, float, str, str]] = []
    for number, (name, points) in enumerate(curves.items()):
        colour = curve_colour(number)
        if band := (bands or {}).get(name):
            outline = [(at, high) for at, _, high in band] + [(at, low) for at, low, _ in reversed(band)]
            there = " ".join(f"{across(at):.1f},{up(level):.1f}" for at, level in outline if math.isfinite(level))
            parts.append(f'<polygon points="{there}" fill="{colour}" opacity="0.18"/>')
        for run in _without_gaps(points):
            line = " ".join(f"{across(at):.1f},{up(level):.1f}" for at, level in run)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        known = [point for run in _without_gaps(points) for point in run]
        if len(known) <= _MOST_MARKED:
            parts += [f'<circle cx="{across(at):.1f}" cy="{up(v):.1f}" r="3.5" fill="{colour}"/>' for at, v in known]
        if known:
            ends.append((across(known[-1][0]), up(known[-1][1]), name, colour))
    parts += [_words(at + 10, height_px + 5, name, "start", colour) for at, height_px, name, colour in _apart(ends)]
    return _svg(width, height, parts)


def bar_chart(bars: Sequence[Bar], *, end: float, width: int = 720, start: float = 0.0) -> str:
    """Bars below one another, each with its value and, where it has one, the whisker of its interval."""
    left = min(260, 20 + round(0.56 * _FONT_PX * max([4, *(len(bar.name) for bar in bars)])))
    right = width - 16 - round(0.6 * _FONT_PX * max([4, *(len(bar.words) for bar in bars)]))

    def across(value: float) -> float:
        return left + (right - left) * (min(max(value, start), end) - start) / (end - start)

    zero, parts = across(0.0), []
    for row, bar in enumerate(bars):
        top, middle = row * _BAR_PX + 4, row * _BAR_PX + 4 + _BAR_PX / 2
        parts.append(f"<g><title>{escape(bar.hint or f'{bar.name}: {bar.words}')}</title>")
        parts.append(_words(left - 8, middle + 5, _shorten(bar.name, 32), "end"))
        if math.isfinite(bar.value):
            first, last = sorted((zero, across(bar.value)))
            parts.append(
                f'<rect x="{first:.1f}" y="{top + 3}" width="{max(1.0, last - first):.1f}" height="{_BAR_PX - 6}" '
                f'fill="{curve_colour(0 if bar.value >= 0 else 3)}"/>'
            )
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            ends = across(bar.low), across(bar.high)
            parts.append(_line((ends[0], middle), (ends[1], middle), _INK, 1.5))
            parts += [_line((end, middle - 4), (end, middle + 4), _INK, 1.5) for end in ends]
        parts += [_words(right + 8, middle + 5, bar.words, "start"), "</g>"]
    parts.append(_line((zero, 4), (zero, len(bars) * _BAR_PX + 4), _GRID, 1))
    return _svg(width, len(bars) * _BAR_PX + 8, parts)


def column_chart(counts: Sequence[int], x: Axis, *, y_label: str, size: tuple[int, int] = (720, 240)) -> str:
    """Counts of equal steps of the axis, as columns."""
    width, height = size
    right, most, step = width - 24, max([1, *counts]), (x.end - x.start) / max(1, len(counts))

    def across(value: float) -> float:
        return _LEFT + (right - _LEFT) * (value - x.start) / (x.end - x.start)

    def up(value: float) -> float:
        return height - _BOTTOM - (height - _BOTTOM - 3 * _MARGIN) * value / most

    parts = []
    for value, words in round_steps(0, most, 4):
        parts.append(_line((_LEFT, up(value)), (right, up(value)), _GRID, 1))
        parts.append(_words(_LEFT - 8, up(value) + 5, words, "end"))
    for place, count in enumerate(counts):
        first, last = across(x.start + place * step), across(x.start + (place + 1) * step)
        hint = f"{x.start + place * step:.3g} to {x.start + (place + 1) * step:.3g}: {count}"
        parts.append(
            f'<rect x="{first + 1:.1f}" y="{up(count):.1f}" width="{max(1.0, last - first - 2):.1f}" '
            f'height="{height - _BOTTOM - up(count):.1f}" fill="{curve_colour(0)}"><title>{hint}</title></rect>'
        )
    parts += [_words(across(value), height - _BOTTOM + 20, words) for value, words in round_steps(x.start, x.end, 8)]
    parts.append(_words((_LEFT + right) / 2, height - 10, x.label))
    parts.append(_words(_MARGIN, 2 * _MARGIN - 8, y_label, "start"))
    return _svg(width, height, parts)


def matrix_chart(shares: NDArray[np.floating], names: Sequence[str], *, rows: str, columns: str) -> str:
    """A square of shares in [0, 1] `(n, n)`, dark where much; NaN stays white. Per cent stand in few cells only."""
    number = len(names)
    cell = min(48, max(14, 620 // max(1, number)))
    left = min(220, 30 + round(0.5 * _FONT_PX * max(map(len, names))))
    top, parts = left, []
    parts.append(_words(left + number * cell / 2, 14, columns))
    parts.append(f'<g transform="translate(14 {top + number * cell / 2}) rotate(-90)">{_words(0, 0, rows)}</g>')
    font = min(_FONT_PX, cell - 2)
    for place, name in enumerate(names):
        middle, short = (place + 0.5) * cell, _shorten(name, 26)
        parts.append(_words(left - 6, top + middle + font / 3, short, "end", size=font))
        turned = _words(0, font / 3, short, "start", size=font)
        parts.append(f'<g transform="translate({left + middle:.1f} {top - 6}) rotate(-60)">{turned}</g>')
    for row, column in np.ndindex(number, number):
        share = float(shares[row, column])
        if not math.isfinite(share):
            continue
        hint = escape(f"{names[row]} → {names[column]}: {100 * share:.1f} %")
        x, y = left + column * cell, top + row * cell
        parts.append(
            f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{_blue(share)}">'
            f"<title>{hint}</title></rect>"
        )
        if cell >= 28 and share >= 0.005:
            words = _words(x + cell / 2, y + cell / 2 + 4, f"{100 * share:.0f}", size=11)
            parts.append(words.replace(_INK, "#ffffff") if share > 0.5 else words)
    return _svg(left + number * cell + 90, top + number * cell + 8, parts)


def write_svg(path: Path, charts: Sequence[tuple[str, str]]) -> None:
    """Write charts below one another, each with a title, as a picture of its own."""
    parts, y, width = [], 0, 0
    for title, chart in charts:
        size = chart[chart.index('viewBox="') :].split('"')[1].split()
        parts.append(_words(_MARGIN, y + 28, title, "start", size=18))
        parts.append(chart.replace("<svg ", f'<svg x="0" y="{y + 36}" height="{size[3]}" ', 1))
        y, width = y + 44 + int(size[3]), max(width, int(size[2]))
    with atomic_write(path) as temporary:
        namespace = ' xmlns="http://www.w3.org/2000/svg"'
        picture = _svg(width, y, [f'<rect width="{width}" height="{y}" fill="#fff"/>', *parts])
        temporary.write_text(picture.replace("<svg", f"<svg{namespace}", 1), encoding="utf-8")


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    frame = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" font-size="{_FONT_PX}" '
    return "\n".join([frame + f'font-family="system-ui, sans-serif" fill="{_INK}">', *parts, "</svg>"])


def _words(x: float, y: float, text: str, anchor: str = "middle", colour: str = _INK, size: int = _FONT_PX) -> str:
    font = f' font-size="{size}"' if size != _FONT_PX else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{font}>{escape(text)}</text>'


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def _without_gaps(points: Points) -> list[list[tuple[float, float]]]:
    """Runs of points that are finite."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _apart(ends: Sequence[tuple[float, float, str, str]]) -> list[tuple[float, float, str, str]]:
    """Names at the ends of curves, moved down where they would lie on one another."""
    placed: list[tuple[float, float, str, str]] = []
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        level = max(y, placed[-1][1] + _FONT_PX) if placed else y
        placed.append((x, level, name, colour))
    return placed


def _blue(share: float) -> str:
    """White to dark blue; the root lets small shares be seen."""
    depth = math.sqrt(min(1.0, max(0.0, share)))
    ends = ((255, 255, 255), (16, 64, 140))
    return "#{:02x}{:02x}{:02x}".format(*(round(a + (b - a) * depth) for a, b in zip(*ends, strict=True)))


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
