"""TensorBoard is tested with the log (test_progress); here, what is particular to Weights & Biases."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vpd.errors import UsageError
from vpd.training.run import train
from vpd.training.trackers import check_trackers, open_trackers


def test_missing_wandb_is_an_error_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any]
):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    with pytest.raises(UsageError, match=r"trackers names wandb, which is not installed: pip install wandb"):
        train("segment", tmp_path / "run", settings, {"trackers": ["tensorboard", "wandb"]})
    assert not (tmp_path / "run").exists()
    check_trackers(["tensorboard"])


def test_nothing_is_tracked_where_nothing_is_asked_for(tmp_path: Path):
    assert open_trackers([], tmp_path, start_step=0) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extras
def test_wandb_gets_curves_pictures_and_settings_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start_step in (0, 2):  # the second time as a resumed run
        (tracker,) = open_trackers(["wandb"], tmp_path, start_step=start_step, settings={"steps": 4})
        tracker.log(start_step + 1, {"train/loss": 0.25})
        tracker.show(start_step + 1, "validation/samples", Image.new("RGB", (30, 20), "red"))
        tracker.close()
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    ids = {folder.name.rsplit("-", 1)[1] for folder in runs}
    assert len(runs) >= 1 and ids == {(tmp_path / "wandb-id.txt").read_text().strip()}
    content = b"".join(file.read_bytes() for folder in runs for file in folder.glob("*.wandb"))
    assert b"train/loss" in content and b"0.25" in content
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/**/*.png"))


@pytest.mark.extras
def test_wandb_that_does_not_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")

    def fail(**_: Any) -> None:
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(
        UsageError, match=r"does not start: no network\. Log in \(wandb login\), set WANDB_MODE=offline"
    ):
        open_trackers(["wandb"], tmp_path, start_step=0)
