"""HTML pages that hold all they show: they need no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from vpd.files.atomic import atomic_write

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222228; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2 { line-height: 1.2 } h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem } section { margin: 2.5rem 0 }
img, svg { max-width: 100%; height: auto }
code { background: #f0f0f4; padding: .1em .3em; border-radius: 3px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e4ea }
.number { text-align: right } .wide { overflow-x: auto }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .6rem; align-items: start }
figure { margin: 0 } figure img { width: 100%; display: block } figcaption, .small { font-size: .85rem; color: #55555f }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em }
.legend span.entry { margin-right: 1.1em; white-space: nowrap }
@media print { section, figure, tr { break-inside: avoid } }
"""


def write_html(path: Path, title: str, body: str, *, style: str = "", refresh_s: int | None = None) -> None:
    """Write a page whole or not at all.

    Args:
        path: Of the file.
        title: Plain text.
        body: HTML.
        style: CSS beside that of all pages.
        refresh_s: Seconds after which a browser loads the page again, if at all.
    """
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}{style}</style></head><body>\n{body}\n</body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def picture_data(picture: Image.Image, *, as_photo: bool = False) -> str:
    """A picture as an address that holds it: PNG; or JPEG, at a fifth of the bytes where it shows a photograph."""
    buffer = io.BytesIO()
    if as_photo:
        picture.convert("RGB").save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    else:
        picture.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if as_photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(picture: Image.Image, caption: str, *, as_photo: bool = False) -> str:
    """A picture above plain words."""
    words = escape(caption, quote=True)
    source = picture_data(picture, as_photo=as_photo)
    return f'<figure><img alt="{words}" src="{source}"><figcaption>{words}</figcaption></figure>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table of plain words; with `numbers`, all columns but the first stand at the right."""
    kinds = ["", *[' class="number"' if numbers else ""] * (len(header) - 1)]

    def line(cells: Sequence[str], tag: str) -> str:
        made = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f'<div class="wide"><table><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table></div>'


def legend(entries: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """Swatches with their words."""
    made = (
        f'<span class="entry"><span class="swatch" style="background:rgb{colour}"></span>{escape(words)}</span> '
        for colour, words in entries
    )
    return f'<p class="legend small">{"".join(made)}</p>'
