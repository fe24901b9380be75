"""HTML pages with pictures and line charts in them, which need no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from vpd.files.atomic import atomic_write

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222228; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2 { line-height: 1.2 } section { margin: 2.5rem 0 } img, svg { max-width: 100%; height: auto }
code { background: #f0f0f4; padding: .1em .3em; border-radius: 3px }
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 720, 420, 64, 52, 16
_COLOURS = ("#3186e9", "#ee921a", "#30ad51", "#e23439")
_TICKS = 5


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    words: str
    picture: Image.Image


def write_page(path: Path, sections: Sequence[Section]) -> None:
    """Write the page whole or not at all."""
    parts = [
        "<h1>vpd: dense perception from a text-to-image diffusion model</h1>",
        "<p>A small text-to-image model, pre-trained on rendered scenes and their captions, adapted to three tasks. "
        "The scenes below are fresh: no training saw them, and their truth is exact. The model that refers heeds "
        "colours, sizes and shapes, and places and relations hardly. It shows how the system works; Stable Diffusion's "
        "weights take the small model's place for photographs.</p>",
    ]
    for section in sections:
        parts.append(
            f"<section><h2>{escape(section.title)}</h2><p>{escape(section.words)}</p>"
            f'<img alt="{escape(section.title)}" src="{_data_uri(section.picture)}"></section>'
        )
    write_html(path, "vpd demo", "\n".join(parts))


def write_html(path: Path, title: str, body: str, *, refresh_s: int | None = None) -> None:
    """Write a page around a body of HTML, which a browser loads again after `refresh_s` seconds, if told."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{refresh}<title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, x_end: float, y_end: float
) -> str:
    """SVG of curves, name -> points `(x, y)` with x ascending, on axes from 0; each has its name at its end."""

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
