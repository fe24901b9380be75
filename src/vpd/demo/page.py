"""One HTML page with pictures in it, which needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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
    """Write a page around a body of HTML.

    Args:
        path: The file.
        title: Of the browser's tab.
        body: HTML, already escaped.
        refresh_s: Seconds after which a browser loads it again; none = never.
    """
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
