"""Tests of the promises that a GPU could break: they run on one, or where VPD_GPU_TESTS_ON says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vpd
from tiny import CLASSES, write_tiny_diffusion
from vpd.config import Resize
from vpd.tasks.model import PerceptionModel

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests run: a CUDA device, or whatever the environment asks for to try the tests themselves."""
    if asked := os.environ.get("VPD_GPU_TESTS_ON"):
        return torch.device(asked)
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; VPD_GPU_TESTS_ON=cpu tries the tests themselves")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Float32 as it is written, not TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, was in zip(backends, before, strict=True):
        backend.allow_tf32 = was


@pytest.fixture(scope="session")
def folders(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny saved model of each task, and of an open vocabulary."""
    root = tmp_path_factory.mktemp("gpu")
    diffusion = write_tiny_diffusion(root / "diffusion")
    fit = Resize(size_px=64, max_long_px=256)
    made: dict[str, Any] = {
        "segment": vpd.SegmentationModel.from_diffusion(diffusion, classes=CLASSES, fit=fit, head_channels=8),
        "open": vpd.SegmentationModel.from_diffusion(diffusion, classes=CLASSES, fit=fit, head="open", head_channels=8),
        "refer": vpd.ReferringModel.from_diffusion(diffusion, fit=fit, head_channels=8, token_length=12),
        "depth": vpd.DepthModel.from_diffusion(
            diffusion, scenes=["kitchen", "office"], fit=fit, head_channels=16, feature_channels=32
        ),
    }
    torch.manual_seed(0)
    for name, model in made.items():
        torch.nn.init.uniform_(model.adapter.gamma, 0.2, 0.6)  # it starts as next to nothing
        model.eval().save(root / name)
    return {"diffusion": diffusion, **{name: root / name for name in made}}


@pytest.fixture
def load(folders: dict[str, Path], device: torch.device) -> Callable[..., PerceptionModel]:
    """A tiny model by its name, where the tests run or elsewhere."""

    def load(name: str, place: torch.device | str | None = None) -> PerceptionModel:
        model: PerceptionModel = vpd.load(folders[name], device=place or device)
        return model

    return load
