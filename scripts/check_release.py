"""Whether a tree is what a tag says: one version everywhere, changes with a day, saved files for later releases.

    python scripts/check_release.py v0.2.0

Names all that was forgotten; the workflow `release` asks it before anything is built.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Name everything that is wrong."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python scripts/check_release.py vX.Y.Z")
    problems = problems_of(ROOT, sys.argv[1])
    if problems:
        sys.exit("\n".join(problems))
    print(f"{sys.argv[1]} can be released.")


def problems_of(root: Path, tag: str) -> list[str]:
    """What a release under this tag would get wrong; none = nothing."""
    version = tag.removeprefix("v")
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        return [f"{tag} is not vX.Y.Z."]
    problems = []
    named = {
        "src/vpd/version.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\S+)",
    }
    for name, pattern in named.items():
        found = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if found is None or found[1] != version:
            problems.append(f"{name} says {found[1] if found else 'nothing'}, not {version}.")
    heading = re.search(r"^## .+$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if heading is None or not re.fullmatch(r"## \S+ \(\d{4}-\d\d-\d\d\)", heading[0]):
        problems.append(f"The newest heading of CHANGELOG.md must be '## {version} (YYYY-MM-DD)'.")
    saved = root / "tests" / f"saved_by_{version.replace('.', '_')}.tar.xz"
    if version.endswith(".0") and not saved.is_file():
        problems.append(f"tests/{saved.name} is missing: python tests/make_saved.py")
    return problems


if __name__ == "__main__":
    main()
