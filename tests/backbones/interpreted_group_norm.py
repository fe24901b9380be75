"""Group norm on GPUs: the kernels against torch, and that a network in one layout keeps it.

Run by `test_group_norm.py` in a process of its own: Triton asks once whether its interpreter is to run its kernels.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vpd
from vpd.backbones import group_norm as module
from vpd.backbones.group_norm import group_norm, has_kernel

KERNEL = "vpd.backbones.group_norm_kernel"


def in_one_layout(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def furthest(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((found.detach().double() - wanted).abs().max() / wanted.abs().max())


SHAPES = [
    (1, 32, 32, 5, 7),
    (3, 64, 32, 9, 13),
    (1, 320, 32, 8, 8),
    (1, 2560, 32, 4, 4),
    (2, 48, 1, 6, 5),
    (3, 40, 4, 1, 1),
]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], silu: bool, dtype: torch.dtype, most: float) -> None:
    images, channels, groups, *sides = shape
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(groups, channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    maps = in_one_layout((torch.randn(images, channels, *sides) * 2 + 5).to(dtype)).requires_grad_()
    assert has_kernel(maps)
    result = group_norm(norm, maps, silu=silu)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(result)
    inputs = (maps, norm.weight, norm.bias)
    found = torch.autograd.grad(result, inputs, gradient)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    wanted = F.group_norm(exact[0], groups, exact[1], exact[2], norm.eps)
    wanted = F.silu(wanted) if silu else wanted
    of_wanted = torch.autograd.grad(wanted, exact, gradient.double())
    assert furthest(result, wanted.detach()) < most
    assert [value.dtype for value in found] == [dtype, torch.float32, torch.float32]
    for one, other in zip(found, of_wanted, strict=True):
        assert furthest(one, other) < most


def test_a_large_mean_costs_no_digits() -> None:
    norm = torch.nn.GroupNorm(2, 8)
    maps = in_one_layout(torch.randn(1, 8, 16, 16) + 3000)
    assert furthest(group_norm(norm, maps), F.group_norm(maps.double(), 2, eps=norm.eps)) < 1e-4  # of the inputs' own


def test_others_get_torchs_bits() -> None:
    norm = torch.nn.GroupNorm(4, 8)
    maps = torch.randn(2, 8, 6, 6)
    assert not has_kernel(maps) and not has_kernel(maps.double()) and not has_kernel(maps.flatten(2))
    assert torch.equal(group_norm(norm, maps, silu=True), F.silu(norm(maps)))
    assert torch.equal(group_norm(norm, maps), norm(maps))


def test_under_autocast_it_returns_the_type_that_comes_next() -> None:
    norm, maps = torch.nn.GroupNorm(4, 8), in_one_layout(torch.randn(2, 8, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert group_norm(norm, maps, silu=True).dtype == torch.bfloat16


def test_where_triton_fails_torch_does_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    importlib.import_module(KERNEL)
    monkeypatch.setattr(sys.modules[KERNEL].GroupNormSiLU, "apply", fail)
    module._is_here.cache_clear()
    maps = in_one_layout(torch.randn(1, 8, 4, 4))
    assert not has_kernel(maps) and not has_kernel(maps)
    assert caplog.text.count("Triton cannot be used here") == 1 and "Failed to find C compiler" in caplog.text
    module._is_here.cache_clear()


def layout(tensor: Tensor) -> str | None:
    """Order of a map in memory; none where both are the same."""
    if tensor.dim() != 4 or tensor.shape[1] == 1 or tensor.shape[2] * tensor.shape[3] == 1:
        return None
    if tensor.is_contiguous():
        return "nchw"
    return "nhwc" if tensor.is_contiguous(memory_format=torch.channels_last) else None


class Audit(TorchDispatchMode):
    """Notes each operation whose maps lie in different orders, inputs and output alike."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        flat = [value for part in (*args, result) for value in (part if isinstance(part, (list, tuple)) else [part])]
        orders = {layout(value) for value in flat if isinstance(value, Tensor)} - {None}
        if len(orders) > 1:
            self.found.append(f"{func} {[tuple(value.shape) for value in flat if isinstance(value, Tensor)]}")
        return result


@pytest.mark.parametrize("size", [(32, 48)])
def test_the_fast_path_copies_no_map(
    tiny_diffusion: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpd.optimising.can_pack", lambda: False)  # as on a GPU
    model = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=("a", "b", "c"), head_channels=8).eval()
    fast = vpd.optimise(model, dtype="bfloat16")
    images = in_one_layout(torch.rand(1, 3, *size).bfloat16() * 2 - 1)
    assert has_kernel(images)  # its trial copies
    with torch.no_grad(), Audit() as audit:
        found = fast.backbone(images, fast.prepared_text.layers)
    assert not audit.found
    with audit:
        images.contiguous()
    assert len(audit.found) == 1  # it can fail
    with torch.no_grad():
        wanted = model.backbone(images.float(), model.adapter(model.constant_prompts()))
    for one, other in zip(found.maps, wanted.maps, strict=True):
        assert furthest(one, other.double()) < 4e-2


def test_training_in_bfloat16_reaches_it(tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module(KERNEL)
    kernel = sys.modules[KERNEL].GroupNormSiLU
    calls: list[torch.Size] = []
    apply = kernel.apply

    def note(maps: Tensor, *others: Any) -> Any:
        calls.append(maps.shape)
        return apply(maps, *others)

    monkeypatch.setattr(kernel, "apply", note)
    backbone = vpd.StableDiffusionBackbone.from_pretrained(tiny_diffusion).to(memory_format=torch.channels_last).train()
    images = in_one_layout(torch.rand(1, 3, 64, 64) * 2 - 1)
    text = torch.randn(1, 3, backbone.config.unet["cross_attention_dim"])

    def gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            features = backbone(images, text)
        loss = sum(part.float().square().mean() for part in features.maps)
        return list(
            torch.autograd.grad(loss, [backbone.unet.conv_in.weight, backbone.unet.mid_block.resnets[0].norm1.weight])
        )

    has_kernel(images)  # its trial does not count
    calls.clear()
    found = gradients()
    assert len(calls) > 20
    monkeypatch.setattr("vpd.backbones.group_norm.has_kernel", lambda maps: False)
    for one, other in zip(found, gradients(), strict=True):
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
