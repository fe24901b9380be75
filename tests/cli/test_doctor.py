from collections.abc import Callable
from typing import Any

import pytest

from vpd.cli.diagnosis import Finding

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("verdicts", "status", "last"),
    [(["ok", "ok"], 0, "All is well."), (["ok", "warn"], 0, "0 bad, 1 to look at."), (["bad", "warn"], 1, "1 bad, 1")],
)
def test_status_1_when_something_is_bad(
    vpd_command: Command, monkeypatch: pytest.MonkeyPatch, verdicts: list[Any], status: int, last: str
):
    findings = [Finding(verdict, "disk", "is full: make room") for verdict in verdicts]
    monkeypatch.setattr("vpd.cli.diagnosis.diagnose", lambda: iter(findings))
    result = vpd_command("doctor")
    assert result.status == status
    assert result.out.splitlines()[0] == f"{verdicts[0]:<5} disk: is full: make room"
    assert result.out.splitlines()[-1].startswith(last)
