"""Parts of the figures of docs/concepts: SVG that is readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
  svg { font-family: system-ui, sans-serif; font-size: 14px }
  .page { fill: #ffffff } .ink { fill: #20242c } .dim { fill: #5a6070 } .part { fill: #eef0f5; stroke: #b3b8c6 }
  .learns { fill: #d6e6f8; stroke: #2f6fb2 } .map { fill: #b9d3ee; stroke: #2f6fb2 }
  .words { fill: #fbe0b5; stroke: #b3721a } .way { stroke: #7a8091; fill: none } .said { stroke: #b3721a; fill: none }
  .curve { stroke: #2f6fb2; fill: none; stroke-width: 1.6 } .other { stroke: #b3721a; fill: none; stroke-width: 1.6 }
  .bold { font-weight: 600 } .small { font-size: 12.5px } .mid { text-anchor: middle } .end { text-anchor: end }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1d2027 } .ink { fill: #e6e8ee } .dim { fill: #a9afbd } .part { fill: #2b2f39; stroke: #5b6273 }
    .learns { fill: #1f3b59; stroke: #6ea8e0 } .map { fill: #2d547d; stroke: #6ea8e0 }
    .words { fill: #5a4016; stroke: #e0a64a } .way { stroke: #8b92a3 } .said { stroke: #e0a64a }
    .curve { stroke: #6ea8e0 } .other { stroke: #e0a64a }
  }
"""


def svg(width: int, height: int, says: str, parts: Iterable[str]) -> str:
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img"><title>{escape(says)}</title>',
            f'<style>{_STYLE}</style><rect class="page" width="{width}" height="{height}" rx="6"/>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="dim" d="M0 0 8 4 0 8z"/></marker></defs>',
            *parts,
            "</svg>\n",
        )
    )


def text(x: float, y: float, words: str, kind: str = "ink") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "part") -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>'


def named(x: float, y: float, width: float, height: float, name: str, *lines: str, kind: str = "part") -> str:
    """A box with a name and lines below it, in its middle."""
    middle, top = x + width / 2, y + height / 2 + 5 - 8 * len(lines)
    rows = [text(middle, top, name, "ink bold mid")]
    rows += [text(middle, top + 16 * row, line, "dim small mid") for row, line in enumerate(lines, start=1)]
    return "\n".join((box(x, y, width, height, kind), *rows))


def way(points: str, kind: str = "way") -> str:
    return f'<path class="{kind}" d="{points}" marker-end="url(#tip)"/>'


def curve(values: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<path class="{kind}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in values)}"/>'


def million(count: int) -> str:
    return f"{count / 1e6:.0f} M" if count >= 2e7 else f"{count / 1e6:.1f} M"
