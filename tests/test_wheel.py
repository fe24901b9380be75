"""What is distributed: the wheel works in an empty environment, the source holds what is not in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
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
    assert "reached" in run(vpd, "demo", "--train", "--out", tmp_path / "race")
    words = "bench --px 64 --batches 1 --rounds 1 --out bench"
    run(vpd, *words.split())
    assert (tmp_path / "bench" / "bench.json").is_file()
    words = "pretrain encoder --images world --model world --steps 3 --size 64 --out encoder"
    run(vpd, *words.split())
    words = "predict segment demo/scenes --model world --encoder encoder --out small"
    run(vpd, *words.split())


@pytest.mark.extras
def test_source_holds_what_the_wheel_does_not(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=900)
    (archive,) = tmp_path.glob("vpd_perception-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    root = tmp_path / archive.name.removesuffix(".tar.gz")
    for folder in ("benchmarks", "experiments", "tests/benchmarks", "tests/experiments"):
        ours = {path.name for path in (ROOT / folder).glob("*.py")}
        assert ours and {path.name for path in (root / folder).glob("*.py")} == ours
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/experiments/test_captions.py"]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    done = subprocess.run(tests, cwd=root, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]
    asked = subprocess.run(
        [sys.executable, root / "experiments" / "pretrain.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert asked.returncode == 0 and "diffusion" in asked.stdout, asked.stderr[-3000:]
