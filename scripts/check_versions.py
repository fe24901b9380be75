"""Try the wheel beside the lowest, or the newest, versions of what it requires.

    python scripts/check_versions.py lowest   # every lower bound of pyproject.toml, as it stands there
    python scripts/check_versions.py newest   # whatever the package index has now
    python scripts/check_versions.py lowest --torch 2.6.0
    python scripts/check_versions.py newest --with "pillow==13.*"

Each makes an environment of its own, runs `smoke.py`, the tests that hold the package to the original and to saved
models, and those of pictures that are read and drawn. torch stays at the version of constraints.txt unless one is
named, since it is large and comes in many builds.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from pathlib import Path

from check_package import ROOT, build, new_environment, run
from packaging.requirements import Requirement

TESTS = (
    *("tests/reference", "tests/backbones", "tests/test_saved.py", "tests/test_loading.py"),
    *("tests/files", "tests/drawing", "tests/video"),
)
"""What depends most on diffusers and transformers (layers, weights' names, tokenizer), and what depends on Pillow."""
TEST_TOOLS = ("pytest>=8", "hypothesis>=6.100")


def main() -> None:
    """Make the environment, say what is in it, try it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("lowest", "newest"))
    parser.add_argument("--torch", default=None, metavar="VERSION", help="none = that of constraints.txt")
    parser.add_argument("--with", dest="further", metavar="REQUIREMENT", help="a further one, as pip takes it")
    parser.add_argument("--wheel", type=Path, help="none = build one")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to leave the environment; none = it goes")
    arguments = parser.parse_args()
    pinned = [f"torch=={arguments.torch or constraint('torch')}"]
    if arguments.which == "lowest":
        pinned += [pin for pin in lowest_versions() if not pin.startswith("torch==")]
    if arguments.further:
        pinned.append(arguments.further)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = (arguments.wheel or build(folder)[1]).resolve()
        python = new_environment((arguments.keep or folder).resolve(), [str(wheel), *pinned, *TEST_TOOLS])
        run(python, "-m", "pip", "list", cwd=folder)
        run(python, "-I", ROOT / "scripts" / "smoke.py", cwd=folder)
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not extras and not gpu", *TESTS)
    print(f"{arguments.which}: passed")


def lowest_versions() -> list[str]:
    """`name==version` for the lower bound of each requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for requirement in map(Requirement, project["dependencies"]):
        (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
        found.append(f"{requirement.name}=={bound}")
    return found


def constraint(name: str) -> str:
    """The version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))
    return version


if __name__ == "__main__":
    main()
