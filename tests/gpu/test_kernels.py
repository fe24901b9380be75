"""The Triton kernels for group norm against torch, at the sizes that models have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from one_layout import furthest
from vpd.backbones.group_norm import group_norm, has_kernel, why_no_kernel

SHAPES = [
    (1, 32, 32, 5, 7),
    (3, 64, 32, 9, 13),
    (2, 48, 1, 6, 5),
    (4, 320, 32, 64, 64),
    (1, 2560, 32, 16, 16),
    (1, 128, 32, 512, 512),
]
_MOST_ON_A_CPU = 2**16  # numbers of a map: the interpreter is slow


@pytest.fixture(autouse=True)
def needs_kernels(device: torch.device) -> None:
    reason = why_no_kernel(device.type)
    if reason and device.type != "cuda":
        pytest.skip(f"{reason}; TRITON_INTERPRET=1 runs them on a CPU")
    assert not reason


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, most: float, device: torch.device) -> None:
    images, channels, groups, *sides = shape
    if device.type == "cpu" and images * channels * sides[0] * sides[1] > _MOST_ON_A_CPU:
        pytest.skip("too large for the interpreter")
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(groups, channels).to(device)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    drawn = (torch.randn(images, channels, *sides) * 2 + 5).to(device, dtype)
    maps = drawn.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert has_kernel(maps)
    result = group_norm(norm, maps, silu=True)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(result)
    inputs = (maps, norm.weight, norm.bias)
    found = torch.autograd.grad(result, inputs, gradient)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    wanted = F.silu(F.group_norm(exact[0], groups, exact[1], exact[2], norm.eps))
    of_wanted = torch.autograd.grad(wanted, exact, gradient.double())
    assert furthest(result, wanted.detach()) < most
    for one, other in zip(found, of_wanted, strict=True):
        assert furthest(one, other) < most
