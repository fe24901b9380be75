"""Writes docs/reference/commands.md from what `vpd --help` says: python tests/docs/commands_page.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vpd_words import vpd_command

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
HEAD = """# The command line

What `vpd --help` and `vpd VERB --help` tell. Exit status: 0 done; 1 some inputs failed, each named; 2 the request is
wrong, one message says how; 130 stopped by Ctrl-C, 143 by SIGTERM, after saving.
"""


def page() -> str:
    """The page as it should stand."""
    return "\n".join([HEAD, *_of_group(vpd_command(), "vpd")]).rstrip() + "\n"


def _of_group(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _of_group(command, f"{path} {name}")
        else:
            yield from _of_command(command, f"{path} {name}")


def _of_command(command: Any, path: str) -> Iterator[str]:
    """Heading, words and a table of options of a verb."""
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option" and part.name != "help"]
    usage = " ".join([path, *(_of_argument(part) for part in arguments), "[OPTIONS]" if options else ""]).strip()
    yield f"## {path}\n\n```text\n{usage}\n```\n\n{_paragraphs(command.help)}\n"
    rows = [(f"`{_of_argument(part)}`", _one_line(part.help), "") for part in arguments]
    kinds = get_type_hints(inspect.unwrap(command.callback))
    rows += [(f"`{_of_option(part, kinds[part.name])}`", _one_line(part.help), _default(part)) for part in options]
    yield "| | | default |\n|---|---|---|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _of_argument(part: Any) -> str:
    return f"{part.metavar or part.name.upper()}{'...' if part.nargs == -1 else ''}"


def _of_option(part: Any, kind: Any) -> str:
    names = ", ".join([*part.opts, *part.secondary_opts])
    if part.is_flag:
        return names
    choices = part.metavar.split("|") if part.metavar else _words_of(kind)  # a | would end the cell
    return f"{names} {' or '.join(choices)}"


def _words_of(kind: Any) -> list[str]:
    """The words that a Literal takes, or one that is optional."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return [str(word) for word in inner]
    return [word for one in inner for word in _words_of(one)]


def _default(part: Any) -> str:
    if part.required:
        return "**needed**"
    return "" if part.is_flag or part.default in (None, (), []) else f"`{part.default}`"


def _one_line(text: str | None) -> str:
    """A help text as the cell of a table: what looks like a tag or a sign for emphasis stays as it is written."""
    return re.sub(r"([<*_|\[\]])", r"\\\1", " ".join((text or "").split()))


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(_one_line(part) for part in (text or "").split("\n\n"))


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
