"""Build what is published, look into it, and try it in an environment that holds nothing else.

    python scripts/check_package.py                 # leaves dist/*.tar.gz, dist/*.whl; some minutes
    python scripts/check_package.py --contents-only # builds and compares, makes no environment

The wheel is built from the source archive, as by whoever builds from that. Needs `build`, and git for the comparison.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE_BY_THE_BUILD = {"PKG-INFO"}
"""In the source archive and not in the repository."""
LARGEST_MB = 100
"""What the package index takes."""


def main() -> None:
    """Build, compare, install, try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the two archives")
    parser.add_argument("--contents-only", action="store_true", help="make no environment")
    arguments = parser.parse_args()
    source, wheel = build(arguments.out)
    check_contents(source, wheel, tracked_files(ROOT))
    for path in (source, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, nothing missing, nothing foreign")
    if not arguments.contents_only:
        with tempfile.TemporaryDirectory() as folder:
            python = new_environment(Path(folder), ["--constraint", str(ROOT / "constraints.txt"), str(wheel)])
            run(python, "-I", ROOT / "scripts" / "smoke.py", cwd=Path(folder))


def build(out: Path) -> tuple[Path, Path]:
    """Both archives, in a folder that may hold those of other versions."""
    before = {path: path.stat().st_mtime_ns for path in out.glob("vpd_perception-*")}
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    new = [path for path in out.glob("vpd_perception-*") if before.get(path) != path.stat().st_mtime_ns]
    (source,) = (path for path in new if path.name.endswith(".tar.gz"))
    (wheel,) = (path for path in new if path.suffix == ".whl")
    return source, wheel


def tracked_files(root: Path) -> dict[str, Path]:
    """What the repository holds: name from its root -> the file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    return {name: root / name for name in listed.split("\0") if name and (root / name).is_file()}


def check_contents(source: Path, wheel: Path, tracked: Mapping[str, Path]) -> None:
    """Compare both archives with the repository, byte by byte: the source is all of it, the wheel is `src/vpd`.

    Raises:
        SystemExit: If a file is missing, differs, or is there without belonging.
    """
    with tarfile.open(source) as archive:
        members = {member.name.partition("/")[2]: member for member in archive if member.isfile()}
        compare(source, {name for name in members if name not in MADE_BY_THE_BUILD}, set(tracked))
        changed = [name for name in tracked if archive.extractfile(members[name]).read() != tracked[name].read_bytes()]
        if changed:
            sys.exit(f"{source.name}: not as in the repository: {', '.join(changed[:5])}")
    package = {name.removeprefix("src/"): path for name, path in tracked.items() if name.startswith("src/vpd/")}
    with zipfile.ZipFile(wheel) as archive:
        about = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
        compare(wheel, {name for name in archive.namelist() if not name.startswith(about)}, set(package))
        changed = [name for name, path in package.items() if archive.read(name) != path.read_bytes()]
        if changed:
            sys.exit(f"{wheel.name}: not as in the repository: {', '.join(changed[:5])}")
        licences = {f"{about}licenses/{name}" for name in tracked if Path(name).name == "LICENSE"}
        described = {about + name for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")} | licences
        compare(wheel, {name for name in archive.namelist() if name.startswith(about)}, described)
    for path in (source, wheel):
        if path.stat().st_size > LARGEST_MB * 1e6:
            sys.exit(f"{path.name} has more than the {LARGEST_MB} MB that the package index takes.")


def compare(archive: Path, found: set[str], wanted: set[str]) -> None:
    """End with the first names that are in one of them only."""
    missing, foreign = sorted(wanted - found), sorted(found - wanted)
    if missing or foreign:
        sys.exit(
            f"{archive.name}: missing: {', '.join(missing[:5]) or 'none'}; foreign: {', '.join(foreign[:5]) or 'none'}"
        )


def new_environment(folder: Path, install: Sequence[str]) -> Path:
    """An environment with what pip is told to install, and that agrees with itself; returns its Python."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *install, cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    return python


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command in an environment without Python's own variables; it speaks for itself where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}")


if __name__ == "__main__":
    main()
