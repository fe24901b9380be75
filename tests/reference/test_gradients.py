"""Losses, gradients and optimiser steps of the three models equal the original's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden_models import FOLDERS, TASKS, file_of, golden_model, group_rates, largest, loss_of, relative
from golden_set import Golden
from vpd.config import Task
from vpd.tasks.model import PerceptionModel
from vpd.weights.key_names import published_names

REGIMES = {"train": (True, True), "eval": (False, True), "train_maps_differentiable": (True, False)}
"""Regime -> (train mode, maps detached)."""
CASES = [
    (task, regime) for task in TASKS for regime in REGIMES if (task, regime) != ("depth", "train_maps_differentiable")
]
"""Depth has one token, so its maps are constants and the third regime does not exist."""


def published_gradients(task: Task, model: PerceptionModel) -> dict[str, Tensor | None]:
    names = published_names(task, model.state_dict())
    return {names[ours]: parameter.grad for ours, parameter in model.named_parameters()}


@pytest.mark.parametrize(("task", "regime"), CASES)
def test_loss_and_gradients_float32(golden: Golden, task: Task, regime: str) -> None:
    wanted = golden.entry(f"{FOLDERS[task]}/golden_train.json", regime)
    train, detach = REGIMES[regime]
    model = golden_model(golden, task, detach_maps=detach).train(train)
    loss = loss_of(golden, task, model, torch.float32)
    assert loss.item() == pytest.approx(next(iter(wanted["loss"].values())), rel=1e-5)
    loss.backward()
    compare_norms(published_gradients(task, model), wanted["grad_norm"], wanted["noise_only"], rel=1e-2, noise=1e-4)
    if regime == "train":
        state = {published_names(task, [key])[key]: value for key, value in head_state(model).items()}
        for key in golden.keys(file_of(task, "golden_train")):
            if key.startswith("bn_after/"):
                assert (
                    largest(state[key.removeprefix("bn_after/")], golden.tensor(file_of(task, "golden_train"), key))
                    < 1e-4
                )


def head_state(model: PerceptionModel) -> dict[str, Tensor]:
    # published_names reads layer counts off UNet keys; the head's keys alone do not need them
    return {key: value for key, value in model.state_dict().items() if key.startswith("head.")}


def compare_norms(
    gradients: dict[str, Tensor | None],
    wanted: dict[str, float | None],
    noise_only: list[str],
    rel: float,
    noise: float,
) -> None:
    total = sum(norm**2 for norm in wanted.values() if norm) ** 0.5
    known = {key for key in wanted if key in gradients}
    missing = {key for key, norm in wanted.items() if norm is not None and key not in known}
    assert not missing
    problems = []
    for key in known:
        got, norm = gradients[key], wanted[key]
        if norm is None:
            if got is not None and got.norm() > 0:
                problems.append(f"{key}: the original has no gradient here, ours is {got.norm():.3g}")
        elif key in noise_only:
            if got is not None and got.norm() > noise * total:
                problems.append(f"{key}: noise only in the original, ours is {got.norm():.3g}")
        elif got is None or abs(got.norm().item() - norm) > max(rel * norm, noise * total):
            problems.append(f"{key}: {None if got is None else got.norm().item()} instead of {norm}")
    assert not problems, "\n".join(problems)


@pytest.mark.extras
@pytest.mark.parametrize(("task", "regime"), CASES)
def test_loss_and_gradients_float64(golden: Golden, task: Task, regime: str) -> None:
    wanted = golden.entry(f"{FOLDERS[task]}/golden_float64.json", regime)
    train, detach = REGIMES[regime]
    model = golden_model(golden, task, torch.float64, detach_maps=detach).train(train)
    loss = loss_of(golden, task, model, torch.float64)
    assert loss.item() == pytest.approx(wanted["loss"], rel=1e-6)
    loss.backward()
    gradients = published_gradients(task, model)
    total = sum(norm**2 for norm in wanted["grad_norm"].values() if norm) ** 0.5
    for key, norm in wanted["grad_norm"].items():
        if norm is not None:
            assert gradients[key].norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-9 * total), key
    for key in golden.keys(file_of(task, "golden_float64")):
        if key.startswith(f"grad/{regime}/"):
            got = gradients[key.removeprefix(f"grad/{regime}/")]
            want = golden.tensor(file_of(task, "golden_float64"), key)
            assert (got - want).norm() <= 1e-6 * want.norm() + 1e-9 * total, key


def test_regimes_can_be_told_apart(golden: Golden) -> None:
    """Gradient through the maps changes the adapter's gradient by 0.1 to 0.3 per cent: the option is real."""
    grads = {}
    for detach in (True, False):
        model = golden_model(golden, "refer", detach_maps=detach).train()
        loss_of(golden, "refer", model, torch.float32).backward()
        grads[detach] = model.adapter.gamma.grad
    assert 1e-4 < relative(grads[True], grads[False]) < 1e-1


@pytest.mark.extras
def test_checkpointing_gives_the_same_gradients(golden: Golden) -> None:
    norms = []
    for checkpointing in (False, True):
        model = golden_model(golden, "segment", torch.float64, detach_maps=False).train()
        model.backbone.gradient_checkpointing = checkpointing
        loss_of(golden, "segment", model, torch.float64).backward()
        norms.append([p.grad.norm().item() for p in model.parameters() if p.grad is not None])
    assert norms[0] == pytest.approx(norms[1], rel=1e-9, abs=1e-12)


@pytest.mark.extras
@pytest.mark.parametrize("task", TASKS)
def test_three_optimiser_steps(golden: Golden, task: Task) -> None:
    """In float64: Adam turns rounding noise of small gradients into steps, 1.4e-4 of the third float32 loss."""
    from vpd.tasks.table import TASKS as KINDS
    from vpd.training.optimisers import build_optimiser, parameter_groups, set_learning_rate

    stored = golden.entry(f"procedures/{FOLDERS[task]}.json", "three_steps")
    model = golden_model(golden, task, torch.float64).train()
    names = published_names(task, model.state_dict())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rule, rates = KINDS[task].published_rule, group_rates(golden.json(f"procedures/{FOLDERS[task]}.json"))
    groups = parameter_groups(
        model.named_parameters(),
        lambda name, parameter: rule(names[name], parameter),
        **rates,
    )
    optimiser = build_optimiser(groups)
    for step, wanted in enumerate(stored["loss"]):
        if "lr" in stored:
            set_learning_rate(optimiser, stored["lr"][step])
        optimiser.zero_grad()
        loss = loss_of(golden, task, model, torch.float64)
        assert loss.item() == pytest.approx(wanted, rel=5e-5)
        loss.backward()
        optimiser.step()
    noise_only = set(golden.json(f"{FOLDERS[task]}/golden_train.json")["train"]["noise_only"])
    for ours, parameter in model.named_parameters():
        wanted = stored["delta_norm"][names[ours]]
        if names[ours] not in noise_only:
            got = (parameter.detach() - before[ours]).norm().item()
            assert got == pytest.approx(wanted, rel=5e-2, abs=1e-9), names[ours]
