from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Command = Callable[..., Any]


def test_every_option_arrives(
    vpd_command: Command, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    calls = []

    def export(model: Any, out: Path, **options: Any) -> Any:
        calls.append((model.config.task, out, options))
        check = SimpleNamespace(network="model", trial="1 x 64x64 px", max_error=2e-6, relative_error=1e-6)
        return SimpleNamespace(checks=[check], bytes=2_500_000)

    monkeypatch.setattr("vpd.exporting.job.export", export)
    words = ["--prompts", "input", "--text-encoder", "--tolerance", "0.001"]
    result = vpd_command("export", models["refer"], "--to", "torch", "--out", tmp_path / "out", *words)
    assert result.status == 0, result.err
    assert "model, 1 x 64x64 px: differs by 2.0e-06, 1.0e-06 of the largest output" in result.out
    assert f"{tmp_path / 'out'}: refer model for torch, 2.5 MB" in result.out
    options = {"target": "torch", "prompts": "input", "text_encoder": True, "tolerance": 0.001}
    assert calls == [("refer", tmp_path / "out", options)]


def test_what_cannot_be_exported_is_one_line(vpd_command: Command, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for words, said in (
        ((tmp_path / "empty", "--to", "torch"), "is not a model folder"),
        ((tmp_path / "empty", "--to", "tflite"), "'tflite' is not one of"),
        ((tmp_path / "empty",), "Missing option '--to'"),
    ):
        result = vpd_command("export", *words, "--out", tmp_path / "out")
        assert result.status == 2
        assert said in result.err
        assert "Traceback" not in result.err
        assert not (tmp_path / "out").exists()
