"""A half type that the processor has no kernels for is told of, once, with what it costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import vpd
from tiny import CLASSES
from vpd.config import Resize
from vpd.inference import precision
from vpd.inference.precision import note_plain_device, warn_of_slow


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    warn_of_slow.cache_clear()
    yield
    warn_of_slow.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda dtype: seconds[str(dtype).removeprefix("torch.")])


def test_the_factor_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pretend(monkeypatch, float32=0.001, float16=0.08, bfloat16=0.002)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float16):
        warn_of_slow(torch.device("cpu"), dtype)
    warn_of_slow(torch.device("cuda"), torch.float16)
    told = "This processor has no kernels for float16: a convolution takes 80 times as long as in float32. Use float32."
    assert caplog.messages == [told]


def test_apple_gpus_are_told_what_they_lack_once(caplog: pytest.LogCaptureFixture) -> None:
    note_plain_device.cache_clear()
    with caplog.at_level(logging.INFO, logger="vpd"):
        for device in ("cpu", "cuda", "mps", "mps"):
            note_plain_device(device)
    (told,) = caplog.messages
    for words in ("Apple GPU (mps)", "float32 (--fast too", "PYTORCH_ENABLE_MPS_FALLBACK=1", "not tried"):
        assert words in told
    note_plain_device.cache_clear()


@pytest.mark.parametrize("way", ["load", "predict"])
def test_every_way_to_an_apple_gpu(
    way: str, tiny_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks, with the device that it really takes; here that is the CPU."""
    seen: list[str] = []
    for module in ("vpd.loading", "vpd.tasks.model"):
        monkeypatch.setattr(
            f"{module}.note_plain_device", lambda device, module=module: seen.append(f"{module} {device}")
        )
    model = vpd.SegmentationModel.from_diffusion(
        tiny_diffusion, classes=CLASSES, head_channels=8, fit=Resize(size_px=64), templates=("a {}",)
    )
    if way == "load":
        model.save(tmp_path / "model")
        vpd.load(tmp_path / "model")
        assert seen == ["vpd.loading cpu"]
    else:
        model.eval().predict(np.zeros((64, 64, 3), np.uint8))
        assert seen == ["vpd.tasks.model cpu"]


def test_seconds_are_of_that_type() -> None:
    assert precision._seconds(torch.float16) > 0


@pytest.mark.parametrize("way", ["load", "half", "optimise"])
def test_every_way_to_a_half_type(
    way: str, tiny_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, float32=0.001, float16=0.08)
    model = vpd.SegmentationModel.from_diffusion(
        tiny_diffusion, classes=CLASSES, head_channels=8, fit=Resize(size_px=64), templates=("a {}",)
    )
    caplog.set_level(logging.WARNING, logger="vpd")
    if way == "load":
        model.save(tmp_path / "model")
        vpd.load(tmp_path / "model", device="cpu", dtype="float16")
    else:
        half = model.half() if way == "half" else vpd.optimise(model, dtype="float16")
        assert caplog.messages == []
        half.predict(np.zeros((8, 8, 3), np.uint8))
    assert sum("no kernels for float16" in message for message in caplog.messages) == 1
