"""Tiny real models on disk, and the command line run inside this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vpd
import vpd.loading  # what other packages print when they are imported is none of a command's words
from vpd.cli import main
from vpd.config import Resize


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def vpd_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `vpd` with the given words in this process."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("vpd.cli.quiet_libraries", lambda: None)  # it changes the process for good
    monkeypatch.setenv("VPD_DEBUG", "")

    def run(*words: object) -> Result:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def models(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a tiny model with random weights for each task."""
    root = tmp_path_factory.mktemp("models")
    common: dict[str, Any] = {"fit": Resize(size_px=64), "licence": "Apache-2.0", "notes": {"made_by": "the tests"}}
    sizes = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    made = {
        "segment": vpd.SegmentationModel.from_diffusion(
            tiny_diffusion, classes=["sky", "tree", "car"], head_channels=8, **common
        ),
        "refer": vpd.ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, **common),
        "depth": vpd.DepthModel.from_diffusion(tiny_diffusion, scenes=["kitchen", "office"], **sizes, **common),
    }
    for task, model in made.items():
        model.save(root / task)
    return {task: root / task for task in made}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three small photographs of different sizes, one in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.jpg", (70, 50)), ("b.png", (40, 90)), ("more/a.jpg", (64, 64))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / name)
    return folder
