"""Fixtures that every part of the tree uses: golden numbers and outside data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from golden_set import COMPACT, Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, metavar="DIR", help="golden set to check (default: the compact set)")


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
