"""A tiny diffusion model and tiny data in the true layouts, made once a session."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tiny import write_tiny_diffusion
from tiny_data import write_depth_data, write_refer_data, write_segment_data


@pytest.fixture(scope="session")
def small_heads() -> dict[str, dict[str, Any]]:
    """For each task the options that make its head tiny."""
    return {
        "segment": {"head_channels": 8},
        "refer": {"head_channels": 8, "token_length": 8},
        "depth": {"head_channels": 16, "feature_channels": 16, "deconv_channels": [8, 8, 8]},
    }


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion model in diffusers layout, random weights."""
    return write_tiny_diffusion(tmp_path_factory.mktemp("diffusion"), block_out_channels=(16, 16, 16, 16))


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of each task's data."""
    return {
        "segment": write_segment_data(tmp_path_factory.mktemp("segment")),
        "refer": write_refer_data(tmp_path_factory.mktemp("refer")),
        "depth": write_depth_data(tmp_path_factory.mktemp("depth")),
    }


@pytest.fixture(scope="session")
def session_settings(
    diffusion: Path, data_of: dict[str, Path], small_heads: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A run of a second for segmentation."""
    return {
        "model": str(diffusion),
        "data": {"root": str(data_of["segment"])},
        "model_options": small_heads["segment"],
        "crop_px": 64,
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "workers": 0,
        "log_every": 1,
        "validate_every": 2,
        "checkpoint_every": 2,
        "pictures": 1,
    }


@pytest.fixture
def settings(session_settings: dict[str, Any]) -> dict[str, Any]:
    """The same, free to change."""
    return copy.deepcopy(session_settings)
