"""The page of the demo, which needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from vpd.drawing.html import picture_data, write_html


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
            f'<img alt="{escape(section.title)}" src="{picture_data(section.picture)}"></section>'
        )
    write_html(path, "vpd demo", "\n".join(parts))
