"""Whether a `vpd` command is one that the command line takes: verbs, options, settings, options of layouts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import typer

from vpd.cli import build_app
from vpd.config import Resize
from vpd.datasets.layouts import LAYOUTS, option_names
from vpd.errors import UsageError
from vpd.overrides import parse_overrides
from vpd.tasks.recipes import BACKBONE_OPTIONS
from vpd.tasks.table import find_task
from vpd.training.settings import read_settings, resolve_config

STAND_INS = {"MODE": "lora"}
"""Words in capitals that pages let the reader fill in, where the settings take only certain words."""

_WRONG = typer.BadParameter.__mro__[1]
"""What typer raises for wrong words; of click, or of the copy of it that newer versions hold."""


@cache
def vpd_command() -> Any:
    """The command line, as click knows it."""
    return typer.main.get_command(build_app())


def vpd_problem(words: list[str], *, is_cut: bool = False) -> str | None:
    """What is wrong with a command; none = nothing.

    Args:
        words: What stands behind `vpd`.
        is_cut: Whether words are left out, so that some may be missing.
    """
    if words in (["--help"], ["--version"]):
        return None
    command, path = vpd_command(), ["vpd"]
    try:
        while hasattr(command, "commands"):
            name, *words = words or [""]
            if name not in command.commands:
                return f"{' '.join(path)} has no {name!r}"
            command, path = command.commands[name], [*path, name]
            if words == ["--help"]:
                return None
        try:
            context = command.make_context(" ".join(path), list(words))
        except _WRONG as error:
            if not is_cut or type(error).__name__ != "MissingParameter":
                return error.format_message()  # type: ignore[attr-defined, no-any-return]
            context = command.make_context(" ".join(path), list(words), resilient_parsing=True)
        _check_settings(" ".join(path[1:]), context.params)
    except UsageError as error:
        return str(error)
    return None


def _check_settings(verb: str, given: Mapping[str, Any]) -> None:
    """Look at what stands behind -s and --fit.

    Raises:
        UsageError: If a key is not known.
    """
    if given.get("task"):
        find_task(given["task"])
    if verb == "train" and given.get("task"):
        _check_training(given)
    elif verb in ("eval", "compare", "data check"):
        layout = given.get("format") or (given["name"] if given.get("folder") else None)
        _check_layout(layout, parse_overrides(given.get("options") or []))
    for key in parse_overrides(given.get("fit") or [], option="--fit"):
        if key not in Resize.model_fields:
            raise UsageError(f"--fit {key}: choose one of: {', '.join(Resize.model_fields)}")


def _check_training(given: Mapping[str, Any]) -> None:
    settings = parse_overrides([word.replace("=MODE", f"={STAND_INS['MODE']}") for word in given["settings"] or []])
    config = given.get("config")
    from_file = read_settings(config) if config and "/" not in config and not config.endswith(".yaml") else {}
    # a recipe may be meant by a file that a reader has, and a resumed run knows its own data and model
    source = {"root": given.get("data") or "DATA", **({"format": given["format"]} if given.get("format") else {})}
    known = {"model": given.get("model") or "MODEL", "data": source}
    resolved = resolve_config(given["task"], from_file, known, settings)
    _check_layout(resolved.data.format, resolved.data.options)
    fields = find_task(given["task"]).config_type.model_fields
    _all_known("model_options", resolved.model_options, {*fields, *_of_a_new_model(given["task"])})
    _all_known("backbone_options", resolved.model_options.get("backbone_options") or {}, BACKBONE_OPTIONS)


def _of_a_new_model(task: str) -> set[str]:
    """What a model takes that begins from a diffusion model."""
    return {name for name in inspect.signature(find_task(task).from_diffusion).parameters if name != "source"}


def _check_layout(layout: str | None, options: Mapping[str, Any]) -> None:
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"no layout {layout}")
    layouts = [LAYOUTS[layout]] if layout else LAYOUTS.values()
    _all_known("options of the data", options, {name for one in layouts for name in option_names(one)})


def _all_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{what}: unknown {', '.join(unknown)}")
