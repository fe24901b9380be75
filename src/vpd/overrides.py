"""Settings laid over one another, and `key=value` words of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from vpd.errors import UsageError

Settings = dict[str, Any]
"""Nested, as YAML has them."""

_NOTHING = {"none", "null"}  # YAML knows only null, Null and NULL
_EITHER_OR = {"steps", "epochs"}  # the one replaces the other


def parse_overrides(
    words: Sequence[str], *, option: str = "-s", expected: str = "key=value, as in -s data.split=train"
) -> Settings:
    """Settings from words like `data.split=train`: a dotted path, and a value in YAML; `none`, in any case, is null.

    Args:
        words: What stood behind each option.
        option: The option, for messages.
        expected: What it takes, for messages.

    Raises:
        UsageError: If a word has no `=`, or its value is not YAML.
    """
    settings: Settings = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise UsageError(f"{option} {word}: expected {expected}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{option} {word}: {text!r} is not a YAML value.") from error
        if isinstance(value, str) and value == text.strip() and value.lower() in _NOTHING:
            value = None
        for key in reversed(path.split(".")):
            value = {key: value}
        settings = merge_settings(settings, value)
    return settings


def merge_settings(under: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """`under` with everything that `over` says put in its place, mappings key by key."""
    replaced = _EITHER_OR if over.keys() & _EITHER_OR else set()
    merged = {key: value for key, value in under.items() if key not in replaced}
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge_settings(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
