"""Parameter groups, against the golden groups and by hand; the optimiser they make."""

import pytest
import torch
from torch import nn

from vpd.errors import UsageError
from vpd.training.optimisers import VALUES, build_optimiser, parameter_groups, set_learning_rate

GOLDEN_TASKS = {"segment": "seg", "refer": "refer", "depth": "depth"}


def named(*names, frozen=()):
    """Parameters: one-dimensional where the name says norm, bias or gamma."""
    return [
        (
            name,
            nn.Parameter(
                torch.ones(2) if name.endswith(("bias", "gamma", "norm.weight")) else torch.ones(2, 2),
                requires_grad=name not in frozen,
            ),
        )
        for name in names
    ]


def groups_of(parameters, *, task="segment", recipe="default", published_name=None):
    return parameter_groups(
        parameters,
        task=task,
        recipe=recipe,
        learning_rate=1.0,
        weight_decay=0.5,
        unet_lr_scale=0.1,
        published_name=published_name,
    )


def by_name(groups):
    return {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_default_groups_by_hand(task):
    parameters = named(
        "adapter.gamma",
        "adapter.mlp.0.weight",
        "adapter.mlp.0.bias",
        "backbone.unet.conv_in.weight",
        "backbone.unet.conv_in.bias",
        "backbone.unet.down_blocks.0.norm.weight",
        "backbone.vae.encoder.conv_in.weight",
        "head.unet_like.weight",
        frozen=("backbone.vae.encoder.conv_in.weight",),
    )
    assert by_name(groups_of(parameters, task=task)) == {
        "adapter.gamma": (1.0, 0.0),
        "adapter.mlp.0.weight": (1.0, 0.5),
        "adapter.mlp.0.bias": (1.0, 0.0),
        "backbone.unet.conv_in.weight": (0.1, 0.5),
        "backbone.unet.conv_in.bias": (0.1, 0.0),
        "backbone.unet.down_blocks.0.norm.weight": (0.1, 0.0),
        "head.unet_like.weight": (1.0, 0.5),
    }


def test_reference_groups_follow_the_published_names():
    published = {"ours.weight": "unet.norm.weight", "norm.weight": "unet.in_layers.0.weight"}
    groups = groups_of(named(*published), recipe="reference", published_name=published.__getitem__)
    assert by_name(groups) == {"ours.weight": (1.0, 0.0), "norm.weight": (0.1, 0.5)}


def test_each_rate_is_the_base_rate_times_its_scale():
    groups = groups_of(named("backbone.unet.conv_in.weight", "head.weight"))
    assert {group["lr"] for group in groups} == {0.1, 1.0}
    assert all(group["lr"] == group["lr_scale"] for group in groups)


def test_reference_groups_need_published_names():
    with pytest.raises(UsageError, match="published_name"):
        groups_of(named("head.weight"), recipe="reference")


def test_nothing_to_train_is_an_error():
    with pytest.raises(UsageError, match="Nothing to train"):
        groups_of(named("head.weight", frozen=("head.weight",)))


def test_optimiser_keeps_the_groups_and_their_names():
    groups = groups_of(named("backbone.unet.conv_in.weight", "head.weight", "head.bias"))
    optimiser = build_optimiser(groups, betas=(0.8, 0.9), eps=1e-6)
    assert [group["param_names"] for group in optimiser.param_groups] == [
        ["head.weight"],
        ["head.bias"],
        ["backbone.unet.conv_in.weight"],
    ]
    assert {(group["betas"], group["eps"]) for group in optimiser.param_groups} == {((0.8, 0.9), 1e-6)}


def test_set_learning_rate_keeps_the_scales():
    optimiser = build_optimiser(groups_of(named("backbone.unet.conv_in.weight", "head.weight")))
    set_learning_rate(optimiser, 3.0)
    assert sorted(group["lr"] for group in optimiser.param_groups) == pytest.approx([0.3, 3.0])


def test_a_step_moves_each_group_at_its_rate_and_decay():
    parameters = dict(named("backbone.unet.conv_in.weight", "head.weight", "head.bias"))
    optimiser = build_optimiser(groups_of(parameters.items()))
    set_learning_rate(optimiser, 0.01)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    moved = {name: 1.0 - parameter.flatten()[0].item() for name, parameter in parameters.items()}
    # Adam's first step is the rate itself; decay takes rate * 0.5 of the weight
    assert moved == pytest.approx(
        {"backbone.unet.conv_in.weight": 0.0015, "head.weight": 0.015, "head.bias": 0.01}, rel=1e-3
    )


@pytest.fixture(params=GOLDEN_TASKS)
def golden_case(request, golden):
    """Task, golden procedures, and the published parameters with the frozen ones frozen."""
    task = request.param
    folder = GOLDEN_TASKS[task]
    procedures = golden.json(f"procedures/{folder}.json")
    shapes = golden.json(f"{folder}/state_dict_keys.json")
    frozen = set(procedures.get("no_grad_params", procedures.get("not_in_optimizer")))
    names = frozen.union(*(group["params"] for group in procedures["param_groups"]))
    parameters = [
        (name, nn.Parameter(torch.empty(shapes[name]["shape"]), requires_grad=name not in frozen))
        for name in shapes
        if name in names
    ]
    return task, procedures["param_groups"], parameters


def test_reference_groups_equal_golden(golden_case):
    task, golden_groups, parameters = golden_case
    trainable = {name for name, parameter in parameters if parameter.requires_grad}
    wanted: dict[tuple[float, float], set[str]] = {}
    for group in golden_groups:
        names = trainable.intersection(group["params"])
        if names:
            wanted.setdefault((group["lr"], group["weight_decay"]), set()).update(names)

    values = VALUES["reference"][task]
    groups = parameter_groups(
        parameters,
        task=task,
        recipe="reference",
        learning_rate=values.learning_rate,
        weight_decay=values.weight_decay,
        unet_lr_scale=values.unet_lr_scale,
        published_name=str,
    )

    ours = {(group["lr"], group["weight_decay"]): {name for name, _ in group["params"]} for group in groups}
    assert ours == wanted


def test_optimiser_settings_equal_golden(golden_case):
    task, golden_groups, _ = golden_case
    values = VALUES["reference"][task]
    assert {(tuple(group["betas"]), group["eps"]) for group in golden_groups} == {(values.betas, values.eps)}


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_default_trains_the_unet_slower(task):
    assert VALUES["default"][task].unet_lr_scale < 1.0
