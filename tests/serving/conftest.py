"""Tiny models behind the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_models import tiny_models
from vpd.serving.served import Served


@pytest.fixture(scope="session")
def served(tiny_diffusion: Path) -> dict[str, Served]:
    models = tiny_models(tiny_diffusion).items()
    return {task: Served(f"tiny-{task}", model.eval(), max_px=250_000) for task, model in models}
