"""Pages hold all they show, forbid themselves every request, and can be read: by eye, by ear and without a script."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from pathlib import Path

import pytest
from made import EVIL, page

from vpd.pages.page import anchor_of, source_of, write_page


@pytest.fixture
def written(tmp_path: Path):
    write_page(tmp_path / "page.html", page())
    return (tmp_path / "page.html").read_text()


def test_page_needs_nothing_else(written):
    assert not re.search(r'\b(src|href)="(?!data:|#)', written) and "url(" not in written and "@import" not in written
    assert "http:" not in written and "https:" not in written


def test_page_forbids_itself_every_request(written):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', written)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", written, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy  # else the browser ignores it
    assert ' style="' not in written and not re.search(r"\son[a-z]+=", written)


def test_words_are_no_markup(tmp_path: Path):
    write_page(tmp_path / "page.html", page(EVIL))
    text = (tmp_path / "page.html").read_text()
    assert text.count("<script") == 1 and text.count("&lt;script&gt;") == 5


def test_everything_has_a_name(written):
    pictures = re.findall(r"<img [^>]*>", written)
    assert len(pictures) == 10 and all(re.search(r'alt="[^"]+"', picture) for picture in pictures)
    assert re.search(r'<input type="range"[^>]* aria-label="Scene 1: how much of answer and truth', written)
    headings = [int(level) for level in re.findall(r"<h(\d)", written)]
    assert headings[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(headings))


def test_a_page_may_load_itself_again(tmp_path: Path):
    write_page(tmp_path / "page.html", page(), refresh_s=2)
    assert '<meta http-equiv="refresh" content="2">' in (tmp_path / "page.html").read_text()


def test_anchors_are_plain():
    assert anchor_of("Your own photos: 2") == "your-own-photos-2"


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_are_told_apart(scheme):
    """WCAG 2.1, AA: 4.5 for letters, 3 for what else must be seen."""
    blocks = re.findall(r":root \{(.*?)\}", source_of("style.css"), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[scheme]))
    for ground in ("paper", "card"):
        for name in ("ink", "muted", "accent"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in ("line", "mark"):
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
