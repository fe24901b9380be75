from pathlib import Path

import pytest

from vpd.datasets.annotations import (
    expressions_of,
    field,
    inner_path,
    naming,
    parse_json,
    path_or_tail,
    plain_name,
    read_json,
)
from vpd.errors import UsageError


def test_json_of_any_kind(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + '{"é": [1, null]}'.encode())
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"line 3: not JSON \("),
        (b"", "line 3: not JSON"),
        (b"[" * 200_000, "line 3: not JSON"),
        (b'{"a": "\xff"}', r"line 3: not UTF-8 text \(byte 7\)"),
    ],
)
def test_what_is_not_json(content, message):
    with pytest.raises(UsageError, match=message):
        parse_json(content, "line 3")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.json: cannot be read \(No such file"):
        read_json(tmp_path / "gone.json")


def test_fields_are_there_and_of_their_kind():
    assert field({"id": 3}, "id", int, "record 1") == 3
    assert field({"parts": {}}, "parts", (list, dict), "record 1") == {}
    for record in ({}, {"id": "3"}, {"id": True}, [], None):
        with pytest.raises(UsageError, match="record 1: 'id' is missing or of the wrong type; it must be a whole numb"):
            field(record, "id", int, "record 1")
    with pytest.raises(UsageError, match="it must be a list or an object"):
        field({"parts": "x"}, "parts", (list, dict), "record 1")


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "a/../../b", "C:\\a.png", "..\\a.png", "\\\\host\\a"])
def test_paths_do_not_lead_out(name):
    with pytest.raises(UsageError, match=r"line 1: .* leads out of the data folder\. Use paths inside it$"):
        inner_path(name, "line 1")
    with pytest.raises(UsageError, match=r"inside it, or trust the file and set allow_absolute=true$"):
        inner_path(name, "line 1", allow_absolute=False)
    assert inner_path(name, "line 1", allow_absolute=True) == Path(name.replace("\\", "/"))


def test_backslashes_mean_slashes():
    assert inner_path("images\\a b\\1.png", "line 1") == Path("images/a b/1.png")


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("../../label-studio/media/1.jpg", "label-studio/media/1.jpg"),
        ("a/../b/1.jpg", "b/1.jpg"),
        ("/home/me/images/1.jpg", "home/me/images/1.jpg"),
        ("C:\\data\\1.jpg", "data/1.jpg"),
        ("C:1.jpg", "1.jpg"),
        ("\\\\host\\share\\a\\1.jpg", "a/1.jpg"),
        ("https://host:80/a/my%20photo.jpg?sig=x#y", "a/my photo.jpg"),
        ("file:///home/1.jpg", "home/1.jpg"),
        ("/data/local-files/?d=images%2F1.jpg", "images/1.jpg"),
        ("https://host/?d=../../etc/passwd", "etc/passwd"),
        ("https://host/%2e%2e/%2e%2e/etc/passwd", "etc/passwd"),
    ],
)
def test_what_leads_out_has_a_tail_that_does_not(name, tail):
    assert path_or_tail(name, "line 1") == (Path(tail), True)
    assert path_or_tail(tail, "line 1") == (Path(tail), False)


@pytest.mark.parametrize("name", ["..", "/", "https://host", "https://host/", "C:\\", "https://[host/1.jpg"])
def test_what_leads_out_and_has_no_tail(name):
    with pytest.raises(UsageError, match="line 1: .* is no path"):
        path_or_tail(name, "line 1")


def test_paths_that_are_none():
    assert inner_path("a/b..c.png", "line 1").name == "b..c.png"
    for name in ("", "  ", "a\0b"):
        with pytest.raises(UsageError, match="line 1: .* is no path"):
            inner_path(name, "line 1", allow_absolute=True)


def test_names_are_numbers_or_harmless_texts():
    assert plain_name(7, "line 1") == "7" and plain_name("room/7", "line 1") == "room/7"
    for value in (None, True, 1.5, "", " a", "a\nb", []):
        with pytest.raises(UsageError, match="line 1: id .* must be a whole number or a text"):
            plain_name(value, "line 1")
    with pytest.raises(UsageError, match="leads out"):
        plain_name("../7", "line 1")


def test_expressions_of_any_alphabet():
    assert expressions_of("the cup", "line 1") == ("the cup",)
    assert expressions_of([" 左边的杯子", "чашка слева", "🐕"], "line 1") == ("左边的杯子", "чашка слева", "🐕")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must be a text or a list of texts, and at least one"),
        ([], "must be a text or a list of texts, and at least one"),
        ({"a": 1}, "must be a text or a list of texts"),
        (" ", "expression 1 of 1 is ' '; it must be a text"),
        (["cup", ""], "expression 2 of 2 is ''; it must be a text"),
        (["cup", 3], "expression 2 of 2 is 3"),
        (["\ud83d"], "expression 1 of 1 is no valid Unicode text"),
    ],
)
def test_expressions_that_are_none(value, message):
    with pytest.raises(UsageError, match=f"line 1: .*{message}"):
        expressions_of(value, "line 1")


def test_errors_say_the_place_once():
    with pytest.raises(UsageError, match=r"^list, line 1: a\.png: no such file$"), naming("list, line 1"):
        raise UsageError("a.png: no such file")
    with pytest.raises(UsageError, match=r"^list, line 1: wrong$"), naming("list, line 1"):
        raise UsageError("list, line 1: wrong")
    with pytest.raises(UsageError, match=r"^wrong$"), naming(""):
        raise UsageError("wrong")
