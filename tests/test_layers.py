"""The floors of the house: nothing imports upwards or in circles, wherever in a file the import stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vpd

ROOT = Path(vpd.__file__).parent
FLOORS = (
    ("errors", "version", "config", "tensors", "overrides", "processes"),
    ("drawing", "files", "pages"),
    ("weights", "metrics"),
    ("prompts",),
    ("backbones",),
    ("heads",),
    ("data",),
    ("inference",),
    ("video",),
    ("model_folder",),
    ("cards",),
    ("world",),
    ("tasks",),
    ("datasets",),
    ("loading", "convert", "optimising"),
    ("evaluation",),
    ("training",),
    ("prediction_jobs", "exporting", "pipelines", "comparing"),
    ("pretraining",),
    ("demo",),
    ("bench",),
    ("serving",),
    ("cli",),
)
"""From the ground up; rooms of one floor may use one another, as long as there is no circle of files."""
MOST_AT_THE_TOP, MOST_NAMING_TASKS = 10, 12
MOST_FILES, MOST_LINES = 325, 44_000
ASKS_FOR_THE_TASK = re.compile(r"isinstance\((self\.)?_?(model|fast), |\bconfig\.task [!=]= ")


def module_name(path: Path) -> str:
    """Dotted, without `vpd.`; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, at its top, in functions and for type checkers alike."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written out, as vpd.room.file"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    named = {name.removeprefix("vpd").removeprefix(".") for name in found if name.split(".")[0] == "vpd"}
    known = {name for name in named if name in MODULES}
    packages = {name for name in known if MODULES[name].name == "__init__.py"}
    return known - {name for name in packages if any(other.startswith(f"{name}.") for other in known)}


GRAPH = {name: imported(path) - {name} for name, path in MODULES.items()}


def test_every_room_has_a_floor() -> None:
    rooms = {name.split(".")[0] for name in MODULES} - {"", "__main__"}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"", "__main__"}))
def test_nothing_is_imported_from_above(name: str) -> None:
    own = FLOOR_OF[name.split(".")[0]]
    above = {other for other in GRAPH[name] if other and FLOOR_OF[other.split(".")[0]] > own}
    facade = {"vpd"} if "" in GRAPH[name] and name.split(".")[0] != "cli" else set()
    assert not above | facade, f"vpd.{name} imports from above: {', '.join(sorted(above | facade))}"


def test_there_is_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in GRAPH[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_the_house_stays_small() -> None:
    """Signals: who adds a room raises them, and says so."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    assert len(MODULES) <= MOST_FILES and lines <= MOST_LINES


def test_few_files_lie_outside_the_rooms() -> None:
    assert sum(path.parent == ROOT and not path.name.startswith("__") for path in MODULES.values()) <= MOST_AT_THE_TOP


def test_few_files_know_which_tasks_there_are() -> None:
    """A new task is one file and one line; so what names all of them is what is about all of them."""
    classes, words = ("SegmentationModel", "ReferringModel", "DepthModel"), ('"segment"', '"refer"', '"depth"')
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    naming = {
        name
        for name, text in texts.items()
        if sum(word in text for word in classes) >= 2 or all(word in text for word in words)
    }
    assert len(naming) <= MOST_NAMING_TASKS, sorted(naming)
    asking = [name for name, text in texts.items() if ASKS_FOR_THE_TASK.search(text) and not name.startswith("tasks")]
    assert asking == [], "ask the model what differs, not which it is"
