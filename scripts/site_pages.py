"""What the site needs beside the pages in docs/; mkdocs calls it by its names for events.

* The first page is the README, so that nothing is said twice.
* Pages that lie elsewhere in the repository (CHANGELOG.md, SECURITY.md, ...) become pages of the site, and links to
  them lead there: the same link works on GitHub and in the site.
* `tutorials/*.md` in the navigation stands for all pages that are there and not named elsewhere; pages that are not
  there are left out.
* Marks for the tests (`<!-- parsed only: ... -->`) are taken off.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
HOME = "README.md"
ELSEWHERE = {
    "CONTRIBUTING.md": "repository/contributing.md",
    "CHANGELOG.md": "repository/changelog.md",
    "SECURITY.md": "repository/security.md",
    "benchmarks/README.md": "repository/benchmarks.md",
    "experiments/README.md": "repository/experiments.md",
    "src/vpd/weights/world/README.md": "repository/weights.md",
    HOME: "index.md",
}
"""Path in the repository -> page of the site."""
BEFORE_THE_PICTURE = "## Why this, and when something else\n"
LEFT_OUT = ("## All pages",)
"""Headings of the README whose part the first page has not: the navigation says it."""
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n", re.MULTILINE)
_MARK = re.compile(r"^ *<!-- *(setup|parsed only|serves|steps):.*?--> *\n", re.MULTILINE)
_FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)

logger = logging.getLogger("mkdocs.hooks.site_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and fill in the navigation."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=first_page(text) if source == HOME else text))
    there = [file.src_uri for file in files.documentation_pages()]
    config.nav = filled(config.nav, there, named=set(_named(config.nav)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take off the marks, and make links those of the site."""
    sources = {shown: source for source, shown in ELSEWHERE.items()}
    source = PurePosixPath(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    marked = _MARK.sub("", markdown)
    parts, last = [], 0
    for block in _FENCED.finditer(marked):  # links in code are code
        parts += [_linked(marked[last : block.start()], source, page.file.src_uri, files), block[0]]
        last = block.end()
    return "".join([*parts, _linked(marked[last:], source, page.file.src_uri, files)])


def first_page(readme: str) -> str:
    """The README as the first page: what it is for fits on a screen, so the picture comes behind that."""
    head, *sections = re.split(r"^(?=## )", readme, flags=re.MULTILINE)
    picture = _PICTURE.search(head)
    if picture is None or not sections[1].startswith(BEFORE_THE_PICTURE):
        raise ValueError(f"{HOME} must have a picture above, and {BEFORE_THE_PICTURE!r} as its second part")
    parts = [head.replace(picture[0], ""), *sections[:2], f"{picture[0]}\n", *sections[2:]]
    shown = [part for part in parts if not part.startswith(LEFT_OUT)]
    return f"---\nhide: [toc]\n---\n{''.join(shown)}"


def filled(nav: Any, there: list[str], *, named: set[str]) -> Any:
    """Navigation with patterns replaced by the pages that they stand for, and pages left out that are not there."""
    if isinstance(nav, dict):
        ((title, inner),) = nav.items()
        inside = filled(inner, there, named=named)
        return {title: inside} if inside else None
    if isinstance(nav, list):
        made = [filled(entry, there, named=named) for entry in nav]
        return [one for entry in made if entry for one in (entry if isinstance(entry, list) else [entry])]
    if "*" in nav:
        pattern = re.compile(re.escape(nav).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*"))
        return sorted(page for page in there if pattern.fullmatch(page) and page not in named)
    return nav if nav in there else None


def _named(nav: Any) -> list[str]:
    """Pages that the navigation names one by one."""
    if isinstance(nav, str):
        return [] if "*" in nav else [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in inner for page in _named(entry)]


def _linked(text: str, source: PurePosixPath, page: str, files: Files) -> str:
    """Text with links as they must be on a page of the site."""

    def link(found: re.Match[str]) -> str:
        target = os.path.normpath(source.parent / found["path"])
        shown = ELSEWHERE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if shown is None or files.get_file_from_path(shown) is None:
            logger.warning("%s links to %s, which is no part of the site", source, target)
            return found[0]
        return os.path.relpath(shown, PurePosixPath(page).parent) + (found["anchor"] or "")

    return _LINK.sub(link, text)
