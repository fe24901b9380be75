from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

Command = Callable[..., Any]


def test_every_option_arrives(vpd_command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = []

    def convert(*arguments: Any, **options: Any) -> Any:
        calls.append((arguments, options))
        return SimpleNamespace(config=SimpleNamespace(task="depth"))

    monkeypatch.setattr("vpd.convert.convert", convert)
    words = ["--diffusion", "sd", "--heads", "5", "--max-depth", "80"]
    result = vpd_command("convert", "depth", "a.pth", "--out", tmp_path / "model", *words)
    assert result.status == 0
    assert "vpd info" in result.out
    options = {"diffusion": "sd", "heads": 5, "max_depth_m": 80.0}
    assert calls == [(("depth", Path("a.pth"), tmp_path / "model"), options)]


def test_what_cannot_be_converted_is_one_line(vpd_command: Command, tmp_path: Path):
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:100])
    for file in ("absent.pth", "cut.pth", "other.pth"):
        result = vpd_command("convert", "segment", tmp_path / file, "--out", tmp_path / "model")
        assert result.status == 2
        assert str(tmp_path / file) in result.err
        assert "Traceback" not in result.err
        assert not (tmp_path / "model").exists()


def test_another_model_is_not_written_over(vpd_command: Command, models: dict[str, Path], tmp_path: Path):
    before = (models["depth"] / "model.safetensors").read_bytes()
    result = vpd_command("convert", "segment", tmp_path / "any.pth", "--out", models["depth"])
    assert result.status == 2 and f"{models['depth']} holds a model (model.safetensors)" in result.err
    assert (models["depth"] / "model.safetensors").read_bytes() == before


def test_files_of_others_are_not_written_over(vpd_command: Command, tmp_path: Path):
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "mine.bin").write_text("mine")
    result = vpd_command("convert", "segment", tmp_path / "absent.pth", "--out", tmp_path)
    assert result.status == 2 and f"did not make: {tmp_path}/text_encoder. Give another folder" in result.err
    assert (tmp_path / "text_encoder" / "mine.bin").read_text() == "mine"
