"""`vpd app` refuses before it reads a model: open doors, missing packages, options that mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vpd.errors import UsageError
from vpd.serving import installed


def test_other_machines_need_a_token(vpd_command: Callable[..., Any]) -> None:
    result = vpd_command("app", "--host", "0.0.0.0")
    assert result.status == 2 and "--token WORD" in result.err


def test_options_that_mean_nothing_are_named(vpd_command: Callable[..., Any]) -> None:
    result = vpd_command("app", "--port", "99999", "--queue", "0")
    assert result.status == 2 and "port" in result.err and "queue" in result.err


@pytest.mark.parametrize(("with_page", "told"), [(True, r"gradio.*\[app\]"), (False, r"uvicorn.*\[serve\]")])
def test_missing_packages_are_told_with_the_extra(with_page: bool, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=told):
        installed.check_installed(with_page=with_page)
