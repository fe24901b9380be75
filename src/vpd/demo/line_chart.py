"""A line chart as SVG, for a page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 720, 420, 64, 52, 16
_COLOURS = ("#3186e9", "#ee921a", "#30ad51", "#e23439")
_TICKS = 5


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, x_end: float, y_end: float
) -> str:
    """Curves from the origin's corner, each with its name at its end.

    Args:
        curves: Name -> points `(x, y)`, x ascending.
        x_label: Words below.
        y_label: Words above the axis.
        x_end: Largest x.
        y_end: Largest y.
    """

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - 130) * x / x_end
        return across, _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - 3 * _MARGIN) * y / y_end

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" font-size="14" fill="#222228">']
    for number in range(_TICKS + 1):
        x, y = x_end * number / _TICKS, y_end * number / _TICKS
        (left, level), (right, _), (across, bottom) = place(0, y), place(x_end, y), place(x, 0)
        parts.append(f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{level:.1f}" y2="{level:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{level + 5:.1f}" text-anchor="end">{y:g}</text>')
        parts.append(f'<text x="{across:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{x:g}</text>')
    middle, bottom = place(x_end / 2, 0)
    parts.append(f'<text x="{middle:.1f}" y="{bottom + 42:.1f}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{_MARGIN}" y="{2 * _MARGIN - 8}">{escape(y_label)}</text>')
    for (name, points), colour in zip(curves.items(), _COLOURS, strict=False):
        places = [place(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        if places:
            x, y = places[-1]
            parts.append(f'<text x="{x + 10:.1f}" y="{y + 5:.1f}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])
