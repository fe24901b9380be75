"""Links between pages lead somewhere: to files of the repository, and to headings as GitHub anchors them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from page_blocks import ROOT, shown

_FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.*?)#* *$", re.MULTILINE)
_MARKUP = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def tracked_pages() -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if told.returncode:  # an archive of the source
        return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [ROOT / name for name in told.stdout.splitlines() if (ROOT / name).is_file()]


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    seen: Counter[str] = Counter()
    made = set()
    for heading in _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        words = _MARKUP.sub(r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        made.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return made


def problem_of(link: str, page: Path) -> str | None:
    """What is wrong with a link; none = nothing that can be seen without a network."""
    parts = urlsplit(link)
    if parts.scheme:
        if parts.scheme == "mailto":
            return None
        is_well_formed = parts.scheme in ("https", "http") and "." in parts.netloc and " " not in link
        return None if is_well_formed else "no address"
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if not target.exists():
        return "leads nowhere"
    if not target.is_relative_to(ROOT):
        return "leads out of the repository"
    if parts.fragment and target.suffix == ".md" and not target.is_relative_to(ROOT / "docs" / "reference"):
        # those of the reference are made from docstrings
        return None if parts.fragment in anchors(target) else "no such heading"
    return None


@pytest.mark.parametrize("page", tracked_pages(), ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    text = _CODE.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    found = {link: problem_of(link, page) for link in _LINK.findall(text)}
    assert {link: problem for link, problem in found.items() if problem} == {}


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("README.md#try-it", None),
        ("README.md#try-this", "no such heading"),
        ("docs/performance.md#within-a-budget---memory", None),
        ("docs/nothing.md", "leads nowhere"),
        ("../../etc/passwd", "leads"),
        ("https://arxiv.org/abs/2303.02153", None),
        ("https:/arxiv", "no address"),
    ],
)
def test_what_is_wrong_is_found(link: str, problem: str | None) -> None:
    found = problem_of(link, ROOT / "README.md")
    assert found is None if problem is None else problem in (found or "")
