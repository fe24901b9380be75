"""Muon: steps of known size, and what is left to Adam."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vpd.training import muon
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


def trained(*, at_once: int, steps: int, resumed_at: int | None = None) -> list[torch.Tensor]:
    """Weights after some steps with kernels of which two have the same form as matrices, and with biases."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, (9, 1), padding=(4, 0)), nn.Conv2d(8, 6, 1))
    optimiser = Muon(groups_of(model), lr=0.01)
    picture = torch.rand(2, 8, 6, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "_at_once", lambda _: at_once)
        for step in range(steps):
            if step == resumed_at:
                state, optimiser = optimiser.state_dict(), Muon(groups_of(model), lr=0.01)
                optimiser.load_state_dict(state)
            optimiser.zero_grad()
            model(picture).sub(picture[:, :6]).square().mean().backward()
            optimiser.step()
    return [weight.detach() for weight in model.parameters()]


def test_kernels_moved_together_move_as_they_do_one_by_one():
    for one, together in zip(trained(at_once=1, steps=3), trained(at_once=5, steps=3), strict=True):
        torch.testing.assert_close(one, together, rtol=1e-5, atol=1e-6)


def test_state_goes_on_in_another_optimiser():
    for whole, resumed in zip(trained(at_once=1, steps=4), trained(at_once=1, steps=4, resumed_at=2), strict=True):
        assert torch.equal(whole, resumed)


def test_adam_by_hand():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = Muon([{"params": [weight], "is_kernel": False}], lr=0.1)
    expected, mean, square = weight.detach().clone(), torch.zeros(2), torch.zeros(2)
    for count, gradient in enumerate((torch.tensor([0.5, -1.0]), torch.tensor([0.1, 3.0])), 1):
        weight.grad = gradient
        optimiser.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        expected -= 0.1 * (mean / (1 - 0.9**count)) / ((square / (1 - 0.99**count)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach(), expected)
