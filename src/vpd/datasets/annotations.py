"""What users' annotation files say, held against what it must be: fields, paths, names and expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from vpd.errors import UsageError


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a place (file and line, say; may be empty) in front of every `UsageError` that is raised inside."""
    try:
        yield
    except UsageError as error:
        if not place or str(error).startswith(place):
            raise
        raise UsageError(f"{place}: {error}") from error


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        UsageError: If it cannot be read or is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_json(content, str(path))


def shipped_json(name: str) -> Any:
    """Content of a published list that this package brings along: class names, scenes, splits."""
    return json.loads(resources.files("vpd.data").joinpath(name).read_text(encoding="utf-8"))


def parse_json(content: bytes, where: str) -> Any:
    """Value of JSON in UTF-8, with or without byte order mark.

    Args:
        content: The text.
        where: Where it stands, for messages.

    Raises:
        UsageError: If it is not JSON, or nested without end.
    """
    text = decode_text(content, where)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from error


def decode_text(content: bytes, where: str | Path) -> str:
    """Text in UTF-8, with or without byte order mark.

    Args:
        content: The bytes.
        where: Where they stand, for messages.

    Raises:
        UsageError: If it is none.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8 text (byte {error.start}). Save it as UTF-8") from error


def field(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field that must be there and of a kind; true and false are no numbers.

    Raises:
        UsageError: If the record is no object, or lacks the field, or has something else there.
    """
    value = record.get(key) if isinstance(record, Mapping) else None
    is_right = isinstance(value, kind) and not (isinstance(value, bool) and kind is int)
    if not is_right:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_JSON_NAMES.get(one, one.__name__) for one in kinds)
        raise UsageError(f"{where}: {key!r} is missing or of the wrong type; it must be {wanted}")
    return value


def whole_number(value: Any) -> int | None:
    """A whole number, also written as `7.0` or `"7"`, as tables of numbers come out of other programs; else none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _MOST_DIGITS:
        return int(value)
    return value if type(value) is int else None


_MOST_DIGITS = 20
_JSON_NAMES: dict[type, str] = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


_PLAIN_PATH = re.compile(r"\w[\w ().+,-]*(/\w[\w ().+,-]*)*")
"""Paths that are harmless at a glance, as nearly all are: looking closer takes twenty times as long."""


def inner_path(name: str, where: str, *, allow_absolute: bool | None = None) -> Path:
    """A path that a file names, once it is certain that it stays below the data's folder; a backslash means a slash.

    Args:
        name: As the file has it.
        where: Where it stands, for messages.
        allow_absolute: Take any path, also one that leads elsewhere; none = no, and the user has no such option.

    Raises:
        UsageError: If it is empty, or leads out of the folder without being allowed to.
    """
    if _PLAIN_PATH.fullmatch(name):
        return Path(name)
    if not name.strip() or "\0" in name or not PurePosixPath(name.replace("\\", "/")).name:
        raise UsageError(f"{where}: {name!r} is no path")
    if _leads_out(name) and not allow_absolute:
        trust = "" if allow_absolute is None else ", or trust the file and set allow_absolute=true"
        raise UsageError(f"{where}: {name!r} leads out of the data folder. Use paths inside it{trust}")
    return Path(name.replace("\\", "/"))


def path_or_tail(name: str, where: str) -> tuple[Path, bool]:
    """A path that a file names; of one that leads out of the data's folder, and of an address, what could lie inside.

    Args:
        name: As the file has it.
        where: Where it stands, for messages.

    Returns:
        The path, below whatever folder, and whether it is only the tail of one that leads out.

    Raises:
        UsageError: If it is no path, or has no tail.
    """
    if _PLAIN_PATH.fullmatch(name) or not (_leads_out(name) or "://" in name):
        return inner_path(name, where), False
    path = name
    if "://" in name or "?d=" in name:  # Label Studio's local files are /data/local-files/?d=FOLDER/NAME
        try:
            address = urlsplit(name)
        except ValueError as error:
            raise UsageError(f"{where}: {name!r} is no path, and no address ({error})") from error
        path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    windows = PureWindowsPath(path)  # knows both slashes, and drives
    inner = [part for part in windows.parts if part != windows.anchor]
    while ".." in inner:
        inner = inner[inner.index("..") + 1 :]
    if not inner:
        raise UsageError(f"{where}: {name!r} is no path of a file")
    return inner_path("/".join(inner), where), True


def _leads_out(name: str) -> bool:
    is_up = ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts
    return is_up or PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)


def plain_name(value: Any, where: str) -> str:
    """An id that can name a sample, and files: a number, or a text that leads nowhere else.

    Raises:
        UsageError: If it is something else.
    """
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(name, str) or not name.strip() or name != name.strip() or not name.isprintable():
        raise UsageError(f"{where}: id {value!r} must be a whole number or a text")
    return inner_path(name, where).as_posix()


def expressions_of(value: Any, where: str) -> tuple[str, ...]:
    """Expressions of one object: a text, or a list of them; of any alphabet, none empty.

    Raises:
        UsageError: If there is none, or one is no text, blank, or not valid Unicode.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not texts:
        raise UsageError(f"{where}: expressions must be a text or a list of texts, and at least one")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{where}: expression {number} of {len(texts)} is {text!r}; it must be a text")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half of a character, as "\ud83d" in JSON
            raise UsageError(f"{where}: expression {number} of {len(texts)} is no valid Unicode text") from error
    return tuple(text.strip() for text in texts)
