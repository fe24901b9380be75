"""Copies of the `models` of a test module, for tests that change them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel


@pytest.fixture
def segmenter(models: dict[str, Any]) -> SegmentationModel:
    return deepcopy(models["segment"])


@pytest.fixture
def referrer(models: dict[str, Any]) -> ReferringModel:
    return deepcopy(models["refer"])


@pytest.fixture
def depth_model(models: dict[str, Any]) -> DepthModel:
    return deepcopy(models["depth"])
