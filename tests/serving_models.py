"""Tiny models, and pictures, for tests of the service."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from tiny import CLASSES
from vpd.config import Resize


def tiny_models(diffusion: Path) -> dict[str, Any]:
    """One a task, at 64 px."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"head_channels": 8}
    fit = Resize(size_px=64, max_long_px=256)
    return {
        "segment": vpd.SegmentationModel.from_diffusion(diffusion, classes=CLASSES, head="open", fit=fit, **small),
        "refer": vpd.ReferringModel.from_diffusion(
            diffusion, token_length=8, fit=Resize(mode="squash", size_px=64), **small
        ),
        "depth": vpd.DepthModel.from_diffusion(
            diffusion, scenes=("kitchen", "hall"), fit=fit, feature_channels=16, deconv_channels=(8, 8, 8), **small
        ),
    }


def picture_bytes(width: int = 80, height: int = 64, *, seed: int = 0, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def needs(*packages: str) -> None:
    """Skip a module of tests where a package is missing."""
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (extra `test-extras`)", allow_module_level=True)
