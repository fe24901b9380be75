"""Parameter groups, against the golden groups and by hand; the optimiser they make."""

import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy import Toy, ToyData, same, toy_config

from golden_models import group_rates
from vpd.errors import UsageError
from vpd.tasks.table import TASKS
from vpd.training.checkpoints import read_checkpoint
from vpd.training.loop import Training
from vpd.training.optimisers import build_optimiser, default_rule, parameter_groups, set_learning_rate

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


def groups_of(parameters, rule=default_rule):
    return parameter_groups(parameters, rule, learning_rate=1.0, weight_decay=0.5, unet_lr_scale=0.1)


def by_name(groups):
    return {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}


def test_default_groups_by_hand():
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
    assert by_name(groups_of(parameters)) == {
        "adapter.gamma": (1.0, 0.0),
        "adapter.mlp.0.weight": (1.0, 0.5),
        "adapter.mlp.0.bias": (1.0, 0.0),
        "backbone.unet.conv_in.weight": (0.1, 0.5),
        "backbone.unet.conv_in.bias": (0.1, 0.0),
        "backbone.unet.down_blocks.0.norm.weight": (0.1, 0.0),
        "head.unet_like.weight": (1.0, 0.5),
    }


def test_lora_trains_at_the_full_rate_without_decay():
    block = "backbone.unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q."
    parameters = named(
        f"{block}base_layer.weight",
        f"{block}lora_A.default.weight",
        f"{block}lora_B.default.weight",
        "head.weight",
        frozen=(f"{block}base_layer.weight",),
    )
    assert by_name(groups_of(parameters)) == {
        f"{block}lora_A.default.weight": (1.0, 0.0),
        f"{block}lora_B.default.weight": (1.0, 0.0),
        "head.weight": (1.0, 0.5),
    }


def test_reference_groups_follow_the_published_names():
    published = {"ours.weight": "unet.norm.weight", "norm.weight": "unet.in_layers.0.weight"}
    rule = TASKS["segment"].published_rule
    groups = groups_of(named(*published), lambda name, parameter: rule(published[name], parameter))
    assert by_name(groups) == {"ours.weight": (1.0, 0.0), "norm.weight": (0.1, 0.5)}


def test_each_rate_is_the_base_rate_times_its_scale():
    groups = groups_of(named("backbone.unet.conv_in.weight", "head.weight"))
    assert {group["lr"] for group in groups} == {0.1, 1.0}
    assert all(group["lr"] == group["lr_scale"] for group in groups)


def test_nothing_to_train_is_an_error():
    with pytest.raises(UsageError, match="Nothing to train"):
        groups_of(named("head.weight", frozen=("head.weight",)))


def test_optimiser_keeps_the_groups_and_their_names():
    groups = groups_of(named("backbone.unet.conv_in.weight", "head.weight", "head.bias"))
    optimiser = build_optimiser(groups)
    assert [group["param_names"] for group in optimiser.param_groups] == [
        ["head.weight"],
        ["head.bias"],
        ["backbone.unet.conv_in.weight"],
    ]


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


def test_sgd_by_hand():
    (name, weight), *_ = parameters = named("head.weight")
    optimiser = build_optimiser(groups_of(parameters), kind="sgd", momentum=0.5)
    assert optimiser.param_groups[0]["param_names"] == [name]
    set_learning_rate(optimiser, 0.1)
    for _ in range(2):
        weight.grad = torch.full_like(weight, 2.0)
        optimiser.step()
    # decay is 0.5: gradients 2 + 0.5 * 1 = 2.5 and 2 + 0.5 * 0.75 = 2.375, the latter plus half of the first
    assert weight.flatten()[0].item() == pytest.approx(1 - 0.1 * 2.5 - 0.1 * (2.375 + 1.25))


def test_missing_bitsandbytes_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UsageError, match=r"adamw_8bit needs bitsandbytes .*pip install 'vpd-perception\[8bit\]'"):
        build_optimiser(groups_of(named("head.weight")), kind="adamw_8bit")


class Wide(Toy):
    """Large enough for states of 8 bits."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 3, 1))

    def loss_sum(self, batch, *, caches=None):
        return super().loss_sum(replace(batch, images=self.wide(batch.images)))


@pytest.mark.parametrize("changes", [{"optimiser": "adamw_8bit"}, {"optimiser": "sgd", "momentum": 0.9}])
def test_states_survive_a_checkpoint_to_the_bit(changes, tmp_path):
    if changes["optimiser"] == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="adamw_8bit needs bitsandbytes")
    torch.manual_seed(0)
    start = Wide().state_dict()

    def run(name, **options):
        model = Wide()
        model.load_state_dict(options.pop("weights", start))
        config = toy_config(**changes, checkpoint_every=3, keep=9, learning_rate=1e-2, pictures=0)
        Training(model, ToyData(), same, config, tmp_path / name, **options).run()
        return model.state_dict()

    whole = run("whole")
    checkpoint = read_checkpoint(tmp_path / "whole" / "checkpoints" / "step-00000003", verify=True)
    state = load_file(checkpoint.folder / "optimiser.safetensors")
    if changes["optimiser"] == "adamw_8bit":
        assert {state[f"state{n}/wide.1.weight"].dtype for n in (1, 2)} == {torch.uint8}
        assert state["state1/conv.bias"].dtype == torch.float32  # small ones stay as they are
    else:
        assert state.keys() == {f"momentum_buffer/{name}" for name in start}
    halfway = load_file(checkpoint.folder / "model.safetensors")
    resumed = run("resumed", weights=halfway, checkpoint=checkpoint)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert not all(torch.equal(halfway[key], whole[key]) for key in whole)


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
    return task, procedures, parameters


def test_reference_groups_equal_golden(golden_case):
    task, procedures, parameters = golden_case
    trainable = {name for name, parameter in parameters if parameter.requires_grad}
    wanted: dict[tuple[float, float], set[str]] = {}
    for group in procedures["param_groups"]:
        names = trainable.intersection(group["params"])
        if names:
            wanted.setdefault((rounded(group["lr"]), group["weight_decay"]), set()).update(names)

    groups = parameter_groups(parameters, TASKS[task].published_rule, **group_rates(procedures))

    ours = {(rounded(group["lr"]), group["weight_decay"]): {name for name, _ in group["params"]} for group in groups}
    assert ours == wanted


def rounded(rate):
    """A rate that is the product of two as one that is not."""
    return float(f"{rate:.12g}")


@pytest.mark.parametrize(
    ("task", "rate", "decay", "scale"),
    [("segment", 8e-5, 1e-3, 0.1), ("refer", 5e-5, 1e-2, 1.0), ("depth", 5e-4, 0.1, 0.01)],
)
def test_the_published_rates(task, rate, decay, scale):
    values = TASKS[task].recipes["reference"]
    assert (values["learning_rate"], values["weight_decay"], values["unet_lr_scale"]) == (rate, decay, scale)


def test_optimiser_settings_equal_golden(golden_case):
    _, procedures, parameters = golden_case
    groups = [{"params": [pair], "lr": 1.0, "lr_scale": 1.0, "weight_decay": 0.0} for pair in parameters[:1]]
    used = build_optimiser(groups).defaults
    for group in procedures["param_groups"]:
        assert (tuple(group["betas"]), group["eps"]) == (tuple(used["betas"]), used["eps"])


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_default_trains_the_unet_slower(task):
    assert TASKS[task].recipes["default"]["unet_lr_scale"] < 1.0
