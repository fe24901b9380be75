"""One run at a time in a folder, and the folder is free again however a run ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vpd.errors import UsageError
from vpd.files.lock import LOCK_FILE, only_run_in
from vpd.training.fitted_data import fit_data
from vpd.training.run import train

HOLDER = """
import sys, time
from pathlib import Path
from vpd.files.lock import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(120)
"""


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_ended(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "holds\n"
        with pytest.raises(UsageError) as error, only_run_in(tmp_path):
            pass
        assert f"A run is under way in {tmp_path} (process {other.pid} on {socket.gethostname()}, since 20" in str(
            error.value
        )
        assert "give another folder" in str(error.value)
        other.send_signal(signal.SIGKILL)
        other.wait()
    with only_run_in(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    with only_run_in(tmp_path):
        pass


@pytest.mark.parametrize("is_resumed", [False, True])
def test_train_does_not_touch_a_folder_that_is_held(is_resumed: bool, tmp_path: Path, settings: dict[str, Any]):
    with only_run_in(tmp_path), pytest.raises(UsageError, match="A run is under way in"):
        train("segment", tmp_path, settings, resume=is_resumed)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_file_systems_without_locks_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_run_in(tmp_path):
        assert "cannot be held (Operation not supported): start no second run" in caplog.text


def test_a_run_that_is_refused_leaves_the_other_one_as_it_is(tmp_path: Path, settings: dict[str, Any], monkeypatch):
    other = ExitStack()

    def begin_another(*_: Any) -> Any:
        tmp_path.joinpath("run").mkdir()
        other.enter_context(only_run_in(tmp_path / "run"))
        (tmp_path / "run" / "config.yaml").write_text("steps: 1\n")
        return fit_data(*_)

    monkeypatch.setattr("vpd.training.run.fit_data", begin_another)
    with other, pytest.raises(UsageError, match="A run is under way in"):
        train("segment", tmp_path / "run", settings)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.yaml"}


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path: Path, settings: dict[str, Any], monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise UsageError("no room")

    monkeypatch.setattr("vpd.training.run_folder.check_space", fail)
    with pytest.raises(UsageError, match="no room"):
        train("segment", tmp_path / "made" / "run", settings)
    assert not (tmp_path / "made").exists()
