"""How deep a prediction goes: six of our functions from `predict` to the walk through the UNet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vpd
from vpd.backbones import stable_diffusion
from vpd.config import Resize

ROOT = str(Path(vpd.__file__).parent)
WORDS: dict[str, dict[str, Any]] = {"segment": {}, "refer": {"text": "the dog"}, "depth": {}}


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    whole, windows = Resize(size_px=64), Resize(size_px=64, window_px=64, stride_px=32, flip=True)
    options: dict[str, Any] = {"head_channels": 16}
    return {
        "segment": vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=["a", "b"], fit=windows, **options),
        "refer": vpd.ReferringModel.from_diffusion(tiny_diffusion, token_length=8, fit=whole, **options),
        "depth": vpd.DepthModel.from_diffusion(
            tiny_diffusion, scenes=["room"], fit=windows, feature_channels=32, **options
        ),
    }


@pytest.mark.parametrize("task", sorted(WORDS))
def test_from_predict_to_the_walk(models: dict[str, Any], task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = set()
    walk = stable_diffusion.walk_unet

    def walk_unet(*inputs: Any, **options: Any) -> Any:
        frame, path = sys._getframe(), []
        while frame := frame.f_back:
            if frame.f_code.co_filename.startswith(ROOT):
                path.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        paths.add((*reversed(path), "unet_walk.walk_unet"))
        return walk(*inputs, **options)

    monkeypatch.setattr(stable_diffusion, "walk_unet", walk_unet)
    models[task].predict([np.zeros((90, 150, 3), np.uint8)] * 2, batch_size=2, **WORDS[task])
    file = {"segment": "segmentation", "refer": "referring", "depth": "depth"}[task]
    forward = ("run.run_windows", f"{file}.forward", "stable_diffusion.forward", "unet_walk.walk_unet")
    assert paths == {("model.predict", "model._answers", *forward)}
