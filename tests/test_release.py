"""What a release promises: one version, requirements as the pages say them, nothing that should be gone by now."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from check_package import ROOT
from check_release import problems_of
from check_versions import TESTS, constraint, lowest_versions

from vpd.version import __version__

DEPRECATED = re.compile(r"\bdeprecated\s*(?:\(|=)\s*f?[\"'](?P<words>[^\"']*)")
REMOVED = re.compile(r"removed in (\d+)\.(\d+)")


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A tree that can be released as 1.2.0."""
    for name, text in {
        "src/vpd/version.py": '__version__ = "1.2.0"\n',
        "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\n",
        "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2027-01-31)\n\n## 1.1.0 (unreleased)\n",
        "tests/saved_by_1_2_0.tar.xz": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_that_is_ready(ready: Path) -> None:
    assert problems_of(ready, "v1.2.0") == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("src/vpd/version.py", '__version__ = "1.1.0"\n', "version.py says 1.1.0, not 1.2.0"),
        ("CITATION.cff", "cff-version: 1.2.0\n", "CITATION.cff says nothing"),
        ("CHANGELOG.md", "## 1.2.0 (unreleased)\n", r"must be '## 1.2.0 \(YYYY-MM-DD\)'"),
        ("tests/saved_by_1_2_0.tar.xz", None, "python tests/make_saved.py"),
    ],
)
def test_what_was_forgotten_is_named(ready: Path, name: str, text: str | None, problem: str) -> None:
    if text is None:
        (ready / name).unlink()
    else:
        (ready / name).write_text(text)
    (found,) = problems_of(ready, "v1.2.0")
    assert re.search(problem, found)


def test_a_tag_is_a_version(ready: Path) -> None:
    assert problems_of(ready, "1.2.0") == ["1.2.0 is not vX.Y.Z."]


def test_this_tree_has_one_version() -> None:
    """All that a release needs, but the day."""
    problems = problems_of(ROOT, f"v{__version__}")
    assert [problem for problem in problems if "YYYY-MM-DD" not in problem] == []


def test_the_page_says_what_is_required() -> None:
    rows = {
        cells[0]: (cells[1], cells[2])
        for line in (ROOT / "docs" / "versions.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={rows['Python'][0]}"
    lowest = dict(pin.split("==") for pin in lowest_versions())
    for name in ("torch", "diffusers", "transformers", "Pillow"):
        assert rows[name][0] == lowest[name]
        assert tuple(map(int, rows[name][1].split("."))) >= tuple(map(int, constraint(name.lower()).split(".")))


def test_each_pillow_reads_and_draws_in_the_workflow() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "versions.yml").read_text(encoding="utf-8"))["jobs"]
    rows = jobs["versions"]["strategy"]["matrix"]["include"]
    assert {"pillow==12.*", "pillow==13.*"} <= {row.get("with") for row in rows}
    assert '--with "${{ matrix.with }}"' in str(jobs["versions"]["steps"])
    assert {"tests/files", "tests/drawing", "tests/video"} <= set(TESTS)
    assert all((ROOT / path).exists() for path in TESTS)


def test_workflows_call_what_is_there() -> None:
    workflows = {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
    }
    steps = {name: str(workflow["jobs"]) for name, workflow in workflows.items()}
    assert ".ci/run" in steps["check.yml"]
    for text in steps.values():
        for script in re.findall(r"scripts/\w+\.py", text):
            assert (ROOT / script).is_file()


def test_what_is_deprecated_says_when_it_goes_and_goes_then() -> None:
    now = tuple(map(int, __version__.split(".")[:2]))
    for path in (ROOT / "src").rglob("*.py"):
        for found in DEPRECATED.finditer(path.read_text(encoding="utf-8")):
            removed = REMOVED.search(found["words"])
            assert removed, f"{path}: {found[0]} does not say 'removed in X.Y'"
            assert tuple(map(int, removed.groups())) > now, f"{path}: {found['words']}: that is now"


@pytest.mark.parametrize(
    "line", ['@deprecated("use load; removed in 0.9")', "old: int = Field(1, deprecated='gone, removed in 0.9')"]
)
def test_the_ways_to_deprecate_are_found(line: str) -> None:
    found = DEPRECATED.search(line)
    assert found and REMOVED.search(found["words"])
