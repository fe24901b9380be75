"""What of a Markdown page is run: its Bash and Python blocks, and the marks above them.

<!-- setup: photos, segmentation-folder as DIR -->   puts small files into the page's working folder, from here on
<!-- parsed only: it needs a GPU -->                 the next block is not run; its words are checked all the same
<!-- serves: http://127.0.0.1:7860/healthz -->       the next block runs until the page ends, the rest of the page
                                                     when that address answers
<!-- steps: 3 -->                                    `vpd train` of the next block is cut to so many steps by the test;
                                                     the page's words say none, and are run as they stand
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = ("bash", "python")
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w-]*)[^\n]*$")
_MARK = re.compile(r"^\s*<!-- *(?P<kind>setup|parsed only|serves|steps): *(?P<words>.*?) *-->\s*$")


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    code: str
    line: int
    """Of its first line of code, from 1."""
    parsed_only: str = ""
    """Why it is not run; empty where it is."""
    serves: str = ""
    """Address that answers once it runs; empty where it ends by itself."""
    steps: str = ""
    """How many its trainings take; empty = what its words say."""


@dataclass(frozen=True)
class Setup:
    """Small files that the next blocks need."""

    name: str
    path: str
    """Where they shall lie; empty = at their usual place."""


def pages() -> list[Path]:
    """Every page that people read: those of `docs/`, and the README."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown(page: Path) -> str:
    """How a page is called in messages."""
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def read_page(text: str) -> Iterator[Block | Setup]:
    """Set-ups and blocks of a page, in their order; blocks of other languages are left out.

    Raises:
        ValueError: If a mark stands above nothing, or a block has no end.
    """
    marks: dict[str, str] = {}
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if found := _MARK.match(line):
            if found["kind"] == "setup":
                yield from _setups(found["words"])
            else:
                marks[found["kind"].replace(" ", "_")] = found["words"]
        elif opening := _FENCE.match(line):
            code = []
            for _, inner in lines:
                if inner.strip() == opening["fence"]:
                    break
                code.append(inner.removeprefix(opening["indent"]))
            else:
                raise ValueError(f"line {number}: the block has no end")
            if opening["language"] in LANGUAGES:
                yield Block(opening["language"], "\n".join(code) + "\n", number + 1, **marks)
            elif marks:
                raise ValueError(f"line {number}: {next(iter(marks))} is for blocks of {' and '.join(LANGUAGES)}")
            marks = {}
        elif marks and line.strip():
            raise ValueError(f"line {number}: {next(iter(marks))} must stand right above a block")


def _setups(words: str) -> Iterator[Setup]:
    for word in words.split(","):
        name, _, path = word.strip().partition(" as ")
        yield Setup(name.strip(), path.strip())
