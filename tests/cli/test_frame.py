"""What every verb has in common: help, exit status, error messages, signals."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import vpd
from vpd.cli import GROUPS, VERBS, describe
from vpd.errors import UsageError

Command = Callable[..., Any]


class Optimiser(BaseModel, extra="forbid"):
    rate: float = 1.0


class Settings(BaseModel, extra="forbid"):
    steps: int
    optimiser: Optimiser = Optimiser()


def test_help_is_quick_and_knows_every_verb():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(
        [sys.executable, "-m", "vpd", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    listed = shown.stdout.partition("Commands:")[2].split("\n")
    assert {line.split()[0] for line in listed if line.strip()} == set(VERBS) | set(GROUPS)


def test_help_of_a_verb_does_not_import_torch():
    code = (
        "import sys; from vpd.cli import build_app; from typer.testing import CliRunner; app = build_app()\n"
        "for words in (['--help'], ['predict', '--help'], ['info', '--help'], ['convert', '--help']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0, words\n"
        "sys.exit(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules)) or 0)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_version(vpd_command: Command):
    result = vpd_command("--version")
    assert (result.status, result.out) == (0, f"vpd {vpd.__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predikt"], "No such command"),
        (["predict", "segment"], "Missing argument"),
        (["predict", "colour", "a.jpg", "--model", "m", "--out", "o"], "colour"),
        (["predict", "segment", "a.jpg", "--model", "m", "--out", "o", "--batch", "0"], "--batch"),
    ],
)
def test_wrong_words_end_with_status_2(vpd_command: Command, words: list[str], said: str):
    result = vpd_command(*words)
    assert result.status == 2
    assert said in result.err


def test_an_error_of_the_request_is_one_line(vpd_command: Command):
    result = vpd_command("info", "no/such/model")
    assert result.status == 2
    assert result.err.startswith("vpd: ")
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_debug_shows_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VPD_DEBUG", "")
    monkeypatch.setattr("vpd.cli.quiet_libraries", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(UsageError, match="no model folder no/such/model"):
        vpd.cli.main(["--debug", "info", "no/such/model"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("x is 3; it must be 4"), "x is 3; it must be 4"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), "a.jpg: No such file or directory"),
        (FileNotFoundError("there is no folder a"), "there is no folder a"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/out/a.png"), "/out/a.png: Permission denied"),
        (ValueError("got 3"), "got 3 (VPD_DEBUG=1 shows where)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "The device has not enough memory."),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA ..."), "The device has not enough memory."),
        (
            NotImplementedError("'aten::x' is not for the MPS device."),
            "torch lacks an operator for Apple GPUs. Set PYTORCH",
        ),
    ],
)
def test_what_is_said_of_errors(error: Exception, said: str):
    assert (describe(error) or "").startswith(said)


def test_our_own_mistakes_keep_their_traceback():
    assert describe(KeyError("x")) is None
    assert describe(RuntimeError("shapes do not fit")) is None
    assert describe(NotImplementedError("a task lacks a method")) is None


def test_every_wrong_key_is_named_with_its_path():
    with pytest.raises(ValueError, match="3 validation errors") as caught:
        Settings.model_validate({"optimiser": {"rate": "fast", "rat": 1}})
    message = describe(caught.value)
    assert message is not None
    assert "Settings has 3 wrong keys" in message
    assert "steps: Field required" in message
    assert "optimiser.rate: Input should be a valid number" in message
    assert "(got 'fast')" in message
    assert "optimiser.rat: unknown key (got 1)" in message


def test_one_wrong_key_is_one_line():
    with pytest.raises(ValueError, match="1 validation error") as caught:
        Settings.model_validate({"steps": "x" * 100})
    message = describe(caught.value) or ""
    assert message.startswith("Settings: steps: Input should be a valid integer")
    assert "\n" not in message
    assert len(message) < 200


WAITING = """
import signal, sys, time, typer
from pathlib import Path
import vpd.cli
from vpd.files.atomic import atomic_write

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it

def wait():
    with atomic_write(Path(sys.argv[1]) / "a.txt") as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(120)

def build():
    app = typer.Typer()
    app.command()(wait)
    return app

vpd.cli.build_app = build
vpd.cli.main([])
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_have_their_status_and_leave_nothing_half_written(tmp_path: Path, sent: int, status: int):
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
