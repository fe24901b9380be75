"""Fixtures that every part of the tree uses: golden numbers and outside data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

COMPACT = Path(__file__).parent / "golden_compact"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, metavar="DIR", help="golden set to check (default: the compact set)")


class Golden:
    """Golden numbers of one set. What the set's manifest omits is skipped with a reason; else a gap fails."""

    def __init__(self, root: Path) -> None:
        self.root = root
        manifest = root / "manifest.json"
        self.omitted: dict[str, str] = json.loads(manifest.read_text())["omitted"] if manifest.is_file() else {}

    def _skip_if_omitted(self, name: str) -> None:
        if name in self.omitted:
            pytest.skip(f"not in the golden set {self.root.name}: {name} ({self.omitted[name]})")

    def path(self, file: str) -> Path:
        self._skip_if_omitted(file)
        assert (self.root / file).is_file(), f"golden set {self.root} has no {file}, and no manifest that says why"
        return self.root / file

    def json(self, file: str) -> Any:
        return json.loads(self.path(file).read_text())

    def keys(self, file: str) -> list[str]:
        with safe_open(self.path(file), "pt") as tensors:
            return list(tensors.keys())

    def tensor(self, file: str, key: str) -> torch.Tensor:
        self._skip_if_omitted(f"{file}:{key}")
        with safe_open(self.path(file), "pt") as tensors:
            assert key in tensors.keys(), f"{file} of golden set {self.root} has no {key}"  # noqa: SIM118
            return tensors.get_tensor(key)

    def tensors(self, file: str) -> dict[str, torch.Tensor]:
        with safe_open(self.path(file), "pt") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Golden:
    option = pytestconfig.getoption("--golden")
    root = Path(option) if option else COMPACT
    if not root.is_dir():
        pytest.fail(f"--golden {root}: no such folder")
    return Golden(root)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real small data sets, given by VPD_TEST_DATA."""
    folder = os.environ.get("VPD_TEST_DATA")
    if not folder:
        pytest.skip("VPD_TEST_DATA is not set: no outside data to test on")
    assert Path(folder).is_dir(), f"VPD_TEST_DATA={folder} is not a folder"
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny but complete diffusion model; do not change it."""
    from tiny import write_tiny_diffusion

    return write_tiny_diffusion(tmp_path_factory.mktemp("tiny") / "diffusion")
