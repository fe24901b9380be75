"""What is distributed: all of the repository or of the package, nothing else, and it works where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from check_package import ROOT, build, check_contents, new_environment, tracked_files
from PIL import Image

LICENCES = ("LICENSE", "src/vpd/part/LICENSE")
ABOUT = "vpd_perception-1.0.0.dist-info/"


@pytest.fixture
def repository(tmp_path: Path) -> dict[str, Path]:
    """A small one: name -> file."""
    names = (*LICENCES, "src/vpd/__init__.py", "src/vpd/weights.bin", "docs/page.md")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return {name: tmp_path / name for name in names}


def pack(repository: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """Its two archives, as the build makes them."""
    source, wheel = folder / "vpd_perception-1.0.0.tar.gz", folder / "vpd_perception-1.0.0-py3-none-any.whl"
    with tarfile.open(source, "w:gz") as archive:
        for name, path in repository.items():
            archive.add(path, f"vpd_perception-1.0.0/{name}")
        archive.add(repository["LICENSE"], "vpd_perception-1.0.0/PKG-INFO")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, path in repository.items():
            if name.startswith("src/"):
                archive.write(path, name.removeprefix("src/"))
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", *(f"licenses/{name}" for name in LICENCES)):
            archive.writestr(ABOUT + name, "")
    return source, wheel


def test_archives_as_they_must_be(repository: dict[str, Path], tmp_path: Path) -> None:
    check_contents(*pack(repository, tmp_path), repository)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("docs/page.md", r"tar.gz: missing: docs/page.md; foreign: none"),
        ("src/vpd/weights.bin", r"tar.gz: missing: src/vpd/weights.bin"),
    ],
)
def test_what_is_missing_is_named(repository: dict[str, Path], tmp_path: Path, name: str, message: str) -> None:
    packed = {key: path for key, path in repository.items() if key != name}
    with pytest.raises(SystemExit, match=message):
        check_contents(*pack(packed, tmp_path), repository)


def test_what_is_foreign_is_named(repository: dict[str, Path], tmp_path: Path) -> None:
    known = {name: path for name, path in repository.items() if name != "src/vpd/weights.bin"}
    with pytest.raises(SystemExit, match="foreign: src/vpd/weights.bin"):
        check_contents(*pack(repository, tmp_path), known)


def test_wheel_is_compared_too(repository: dict[str, Path], tmp_path: Path) -> None:
    source, wheel = pack(repository, tmp_path)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tests/test_me.py", "")
    with pytest.raises(SystemExit, match=r"whl: missing: none; foreign: tests/test_me.py"):
        check_contents(source, wheel, repository)


def test_a_changed_file_is_named(repository: dict[str, Path], tmp_path: Path) -> None:
    _, wheel = pack(repository, tmp_path)
    repository["src/vpd/weights.bin"].write_text("newer")
    (tmp_path / "new").mkdir()
    source, _ = pack(repository, tmp_path / "new")
    with pytest.raises(SystemExit, match=r"whl: not as in the repository: vpd/weights.bin"):
        check_contents(source, wheel, repository)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source archive, and the wheel made from it."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.mark.extras
def test_archives_hold_what_the_repository_holds(archives: tuple[Path, Path]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no repository to compare with")
    check_contents(*archives, tracked_files(ROOT))


@pytest.mark.extras
def test_wheel_in_an_empty_environment(archives: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=1800)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    python = new_environment(tmp_path, ["--constraint", str(ROOT / "constraints.txt"), str(archives[1])])
    vpd = python.with_name("vpd")
    assert "torchvision" not in run(python, "-m", "pip", "list")
    for path in sorted((tmp_path / "environment" / "lib").rglob("site-packages/vpd/**/*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)  # as an administrator installs it
    assert "smoke: passed" in run(python, "-I", ROOT / "scripts" / "smoke.py")
    words = "train depth --data world --model world --out run -s steps=1 -s batch_size=2 -s crop_px=64 -s trackers=[]"
    run(vpd, *words.split())
    assert "depth" in run(vpd, "info", "run/model")
    assert "reached" in run(vpd, "demo", "--train", "--out", tmp_path / "race")
    words = "bench --px 64 --batches 1 --rounds 1 --out bench"
    run(vpd, *words.split())
    assert (tmp_path / "bench" / "bench.json").is_file()
    words = "pretrain encoder --images world --model world --steps 3 --size 64 --out encoder"
    run(vpd, *words.split())
    Image.new("RGB", (96, 64)).save(tmp_path / "picture.png")
    words = "predict segment picture.png --model world --encoder encoder --out small"
    run(vpd, *words.split())


@pytest.mark.extras
def test_tests_and_experiments_run_from_the_source_archive(archives: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(archives[0]) as tar:
        tar.extractall(tmp_path, filter="data")
    root = tmp_path / archives[0].name.removesuffix(".tar.gz")
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
