"""Pages hold all they show, and somebody's words are never markup."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from vpd.drawing.html import figure, legend, picture_data, table, write_html


def test_pictures_are_in_the_page():
    picture = Image.new("RGB", (5, 4), (200, 10, 10))
    for as_photo, kind in ((False, "PNG"), (True, "JPEG")):
        head, _, data = picture_data(picture, as_photo=as_photo).partition(",")
        assert head == f"data:image/{kind.lower()};base64"
        found = Image.open(io.BytesIO(base64.b64decode(data)))
        assert found.format == kind and found.size == (5, 4)


def test_words_are_no_markup(tmp_path: Path):
    evil = '"><script>x</script>'
    body = figure(Image.new("L", (1, 1)), evil) + table(["a", evil], [[evil, "1"]]) + legend([((1, 2, 3), evil)])
    write_html(tmp_path / "page.html", evil, body)
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") == 6
    assert page.startswith("<!doctype html>") and "http" not in page


def test_a_page_may_load_itself_again(tmp_path: Path):
    write_html(tmp_path / "page.html", "t", "", refresh_s=2)
    assert '<meta http-equiv="refresh" content="2">' in (tmp_path / "page.html").read_text()
