from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vpd
from vpd.cli.info import describe_source
from vpd.weights.finite import not_finite, not_finite_in_file

KEY = "backbone.unet.mid_block.resnets.0.conv1.weight"
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_of_many_is_found(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    limit = torch.finfo(dtype).max
    tensors = {
        "whole": torch.arange(5),
        "largest": torch.tensor([limit, limit, -limit, 0.0], dtype=dtype),  # their sum overflows
        "last": torch.zeros(1_048_577, dtype=dtype),  # longer than what is looked at in one go
        "empty": torch.zeros(0, dtype=dtype),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert not_finite(tensors) == [] == not_finite_in_file(tmp_path / "a.safetensors")
    tensors["last"][-1] = bad
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert not_finite(tensors) == ["last"] == not_finite_in_file(tmp_path / "a.safetensors")


@pytest.fixture
def damaged(tiny_diffusion: Path, tmp_path: Path) -> Path:
    """A depth model of which one number is NaN."""
    model = vpd.DepthModel.from_diffusion(
        tiny_diffusion, scenes=["kitchen"], feature_channels=16, head_channels=16, deconv_channels=(8, 8, 8)
    )
    with torch.no_grad():
        model.get_parameter(KEY)[0, 0, 0, 0] = torch.nan
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_loading_and_info_name_the_tensor(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vpd"):
        vpd.load(damaged)
    assert f"1 of its {len(load_file(damaged / 'model.safetensors'))} tensors holds NaN or infinity" in caplog.text
    assert KEY in caplog.text
    assert KEY in describe_source(damaged)["damaged"]


def test_float16_that_is_too_narrow_is_told(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = load_file(damaged / "model.safetensors")
    weights[KEY] = torch.full_like(weights[KEY], 1e6)
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "vpd"):
        vpd.load(damaged)
        assert not caplog.text
        vpd.load(damaged, dtype="float16")
    assert "float16 is too narrow for them" in caplog.text


def test_a_diffusion_model_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tiny import write_tiny_diffusion

    folder = write_tiny_diffusion(tmp_path / "sd")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"][0] = torch.inf
    save_file(weights, path, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "vpd"):
        vpd.StableDiffusionBackbone.from_pretrained(folder)
    assert "NaN or infinity, the first is conv_in.weight" in caplog.text
    assert "conv_in.weight" in describe_source(folder)["damaged"]
