"""A resumed run goes on with the samples it began with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from toy import ToyData

from tiny_data import write_segment_data
from vpd.errors import UsageError
from vpd.training.run import train
from vpd.training.setup import data_identity


class Named(ToyData):
    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def sample_keys(self) -> tuple[str, ...]:
        return self.keys


def test_number_names_and_order_count():
    assert data_identity(ToyData()) == {"samples": 7, "keys_sha256": None}
    found = [data_identity(Named(*keys))["keys_sha256"] for keys in (("a", "b"), ("b", "a"), ("ab",), ("a", "b"))]
    assert found[0] == found[3] and len(set(found)) == 3


@pytest.fixture
def stopped(tmp_path: Path, settings: dict[str, Any]) -> Path:
    """A run of two steps on data that can be changed, which shall do two more."""
    data = write_segment_data(tmp_path / "data")
    train("segment", tmp_path / "run", settings | {"data": {"root": str(data)}, "steps": 2, "validate_every": 100})
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 2\n", "steps: 4\n"))
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    return tmp_path / "run"


def test_other_samples_are_refused_or_said(stopped: Path, caplog: pytest.LogCaptureFixture):
    images = sorted((stopped.parent / "data" / "images" / "train").iterdir())
    labels = stopped.parent / "data" / "labels" / "train"
    for path in (images[0], labels / f"{images[0].stem}.png"):
        path.rename(path.with_stem("zebra"))
    with pytest.raises(UsageError, match="still has 6 samples, but other names.*on_changed_data=go_on.*--model "):
        train("segment", stopped, resume=True)
    for path in (images[0].with_stem("zebra"), labels / "zebra.png"):
        path.unlink()
    with pytest.raises(UsageError, match="The training set had 6 samples and has 5 now"):
        train("segment", stopped, resume=True)
    with caplog.at_level(logging.WARNING):
        train("segment", stopped, {"on_changed_data": "go_on"}, resume=True)
    assert "had 6 samples and has 5 now" in caplog.text and "goes on with it from step 2" in caplog.text
    state = json.loads((stopped / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["data"]["samples"] == 5


def test_checkpoints_of_older_releases_go_on(stopped: Path):
    path = stopped / "checkpoints" / "step-00000002" / "state.json"
    state = json.loads(path.read_text())
    del state["data"]
    path.write_text(json.dumps(state))
    train("segment", stopped, resume=True)
