"""The benchmark of clips runs small, and measures the same frames both ways."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras
pytest.importorskip("av", reason="PyAV is not installed: pip install 'vpd-perception[video]'")


def test_a_clip_and_its_files_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import clips

    words = ["--frames", "12", "--size", "32", "--out", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["clips.py", *words])
    clips.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    for way in ("clip", "files"):
        assert found[way]["cpu_s"] > 0 and found[way]["most_mb"] > 50
        if sys.platform == "linux":
            assert 0 < found[way]["early_mb"] <= found[way]["most_mb"] * 1.01
    assert found["cpu_ratio"] == pytest.approx(found["clip"]["cpu_s"] / found["files"]["cpu_s"])
    assert "CPU time of the clip over that of the files" in capsys.readouterr().out
