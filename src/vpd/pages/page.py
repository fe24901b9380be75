"""A page: a heading, sections of parts (`parts.py`, `charts.py`), style and script, all in one file.

The page forbids itself every request (Content-Security-Policy): pictures are in it, and only its own style and script,
known by their hashes, count.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vpd.files.atomic import atomic_write

EMPTY = Markup()


@dataclass(frozen=True)
class Section:
    """A part of a page, with a heading of its own."""

    title: str
    words: str
    """A paragraph below the heading."""
    body: Markup = EMPTY
    """HTML, as the functions of `parts` and `charts` make it."""

    @property
    def anchor(self) -> str:
        """Its name in links: `#semantic-segmentation`."""
        return anchor_of(self.title)


@dataclass(frozen=True)
class Page:
    """All of a page."""

    title: str
    """In the heading and in the browser's tab."""
    words: str
    """A paragraph below the title."""
    head: Markup = EMPTY
    """HTML between the words and the first section, for what is to be seen first."""
    sections: Sequence[Section] = ()
    foot: str = ""
    """The last line."""


def anchor_of(title: str) -> str:
    """A title as the name of a place on the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def write_page(path: Path, page: Page, *, refresh_s: int | None = None) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file.
        page: What is on it.
        refresh_s: After how many seconds a browser loads it again; none = never.
    """
    style, script = (Markup(source_of(name)) for name in ("style.css", "page.js"))  # noqa: S704, our own files
    text = (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            style=style,
            script=script,
            style_hash=_policy_hash(style),
            script_hash=_policy_hash(script),
            refresh_s=refresh_s,
        )
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates of this room; every text that is put into them is escaped, unless it is `Markup`."""
    return Environment(
        loader=PackageLoader("vpd.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def source_of(name: str) -> str:
    """Text of the style or the script of all pages."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
