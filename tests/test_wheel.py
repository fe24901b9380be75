"""The wheel, installed into an empty environment, has all it needs: it trains, predicts and tells what it is."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.extras
def test_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=1800)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("vpd_perception-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python, vpd = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "vpd"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    assert "torchvision" not in run(python, "-m", "pip", "list")
    for path in sorted((tmp_path / "venv" / "lib").rglob("site-packages/vpd/**/*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)  # as an administrator installs it
    report = run(vpd, "demo", "--out", tmp_path / "demo")
    assert "mIoU" in report and "oIoU" in report and "RMSE" in report
    run(vpd, "predict", "segment", tmp_path / "demo" / "scenes", "--model", "world", "--out", "out")
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 3
    words = "train depth --data world --model world --out run -s steps=1 -s batch_size=2 -s crop_px=64 -s trackers=[]"
    run(vpd, *words.split())
    assert "depth" in run(vpd, "info", "run/model")
