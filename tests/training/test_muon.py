"""Muon: steps of known size, and what is left to Adam."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vpd.training.muon import KERNEL_RATIO, Muon, orthogonalise, split_kernels


def groups_of(model: nn.Module) -> list[dict]:
    return split_kernels([{"params": list(model.named_parameters())}])


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_orthogonalised_matrix_keeps_its_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = torch.diagonal(left.T @ orthogonalise(matrix) @ right.T)
    assert kept.min() > 0.6
    assert kept.max() < 1.3


def test_first_steps_by_hand():
    """The first step of Adam is the sign of the gradient; that of a kernel has a known size."""
    model = nn.Conv2d(16, 32, 3)
    optimiser = Muon(groups_of(model), lr=0.01, weight_decay=0.0)
    before = [weight.detach().clone() for weight in model.parameters()]
    model(torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimiser.step()
    kernel, bias = (old - new.detach() for old, new in zip(before, model.parameters(), strict=True))
    assert torch.allclose(bias, 0.01 * model.bias.grad.sign(), rtol=1e-4)
    assert kernel.square().mean().sqrt() == pytest.approx(0.2 * KERNEL_RATIO * 0.01, rel=0.35)
    assert (kernel * model.weight.grad).sum() > 0  # downhill


def test_optimiser_leaves_weights_without_gradient():
    model = nn.Conv2d(16, 16, 1)
    before = model.weight.detach().clone()
    Muon(groups_of(model)).step()
    assert torch.equal(model.weight, before)


def test_tables_and_thin_kernels_are_left_to_adam():
    model = nn.ModuleDict({"table": nn.Embedding(9, 8), "inner": nn.Linear(8, 8), "picture": nn.Conv2d(3, 8, 1)})
    kernels, others = split_kernels([{"params": list(model.named_parameters())}], tables=[model["table"].weight])
    assert [name for name, _ in kernels["params"]] == ["inner.weight"] and kernels["is_kernel"]
    assert {name for name, _ in others["params"]} == {"table.weight", "inner.bias", "picture.weight", "picture.bias"}
