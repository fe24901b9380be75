"""The notebooks run from top to bottom, and are kept without what they print."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
EVERY = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
MOST_BYTES = 20_000


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3


@EVERY
def test_is_kept_without_outputs(path: Path) -> None:
    cells = code_cells(path)
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert path.stat().st_size < MOST_BYTES


@EVERY
def test_is_python(path: Path) -> None:
    for cell in code_cells(path):
        compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.extras
@EVERY
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra test-extras")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra test-extras")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra test-extras")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nothing of who runs the tests, nothing left behind
    work = tmp_path / "work"
    work.mkdir()
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    client = nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": work}})
    client.execute(env=os.environ | {"MPLCONFIGDIR": str(tmp_path / "matplotlib")})
    shown = [output.get("data", {}) for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in data for data in shown)
