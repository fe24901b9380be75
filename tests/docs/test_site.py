"""The site is built without a warning, asks no other host for anything, and its first page leads to every other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from commands_page import PAGE, page
from page_blocks import ROOT

LOADED = {"script": "src", "img": "src", "source": "src", "video": "src", "iframe": "src", "object": "data"}
"""Elements whose address a browser fetches by itself, beside stylesheets and icons."""
FETCHED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}
_IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?(https?:)?//", re.IGNORECASE)


def test_the_page_of_commands_is_that_of_the_command_line() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/docs/commands_page.py"


class Addresses(HTMLParser):
    """What a page fetches, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if address := given.get(LOADED.get(tag, "")):
            self.fetched.append(address)
        if tag == "link" and FETCHED_LINKS & set((given.get("rel") or "").split()):
            self.fetched.append(given.get("href") or "")
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if "mermaid" in (given.get("class") or "").split():
            self.fetched.append("https://unpkg.com/mermaid")  # which the theme fetches where a page has one


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'vpd-perception[docs]'")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install 'vpd-perception[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    told = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return folder


@pytest.mark.extras
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    shown = sorted(site.rglob("*.html"))
    assert len(shown) > 25
    for path in shown:
        outside = [address for address in Addresses(path.read_text("utf-8")).fetched if urlsplit(address).netloc]
        assert outside == [], path
    for path in site.rglob("*.css"):
        assert not _IN_STYLES.search(path.read_text("utf-8")), path


@pytest.mark.extras
def test_every_page_is_reached_from_the_first(site: Path) -> None:
    start = (site / "index.html").as_uri()
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        path = Path(urlsplit(here).path)
        for link in Addresses(path.read_text("utf-8")).links:
            there = urljoin(here, link.split("#")[0])
            if not there.startswith(site.as_uri()):
                continue
            there = f"{there}index.html" if there.endswith("/") else there
            if there.endswith(".html") and there not in seen:
                assert Path(urlsplit(there).path).is_file(), f"{path} leads to {link}"
                seen.add(there)
                waiting.append(there)
    pages = {path.as_uri() for path in site.rglob("*.html") if path.name != "404.html"}
    assert pages - seen == set()


@pytest.mark.extras
def test_the_first_page_and_the_reference_hold_what_they_are_for(site: Path) -> None:
    first = (site / "index.html").read_text("utf-8")
    for words in ("For whom", "Why this, and when something else", "Try it"):
        assert words in first
    for name in ("vpd.load", "vpd.pipeline", "vpd.Features"):
        assert f'id="{name}"' in (site / "reference/api.html").read_text("utf-8")
    assert not any(mark in first for mark in ("parsed only", "setup:", "serves:", "steps:"))
