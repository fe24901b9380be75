"""What of a model trains, in which groups of learning rate and decay, and by which optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from vpd.backbones.lora import LORA_MARKS
from vpd.errors import UsageError
from vpd.tasks.model import PerceptionModel
from vpd.training.config import Mode, OptimiserKind, TrainConfig
from vpd.training.muon import Muon, split_kernels
from vpd.weights.key_names import published_names

STATE_BYTES: dict[OptimiserKind, int] = {"adamw": 8, "adamw_8bit": 2, "sgd": 4, "muon": 8}
"""Bytes of state for each trained value, at most, or nearly so."""
Rule = Callable[[str, Tensor], tuple[bool, bool]]
"""Name and parameter -> whether it trains at the UNet's rate, and whether it decays."""
_FUSED_DEVICES = {"cpu", "cuda"}  # where this package was tried with it


def freeze_parts(model: nn.Module, mode: Mode) -> None:
    """Freeze what a mode does not train; what is frozen already stays so.

    Frozen weights get neither gradients nor optimiser state. What lies before the first trained weight, autograd
    does not record: in mode `head` nothing up to the features, in mode `frozen` what the UNet does before it sees
    the text, since the text adapter learns through the UNet.

    Raises:
        UsageError: If the UNet has no low-rank layers to train.
    """
    if mode == "lora" and not any(_is_lora(name) for name, _ in model.named_parameters()):
        raise UsageError("mode=lora, but this model's UNet has no low-rank layers: call `model.add_lora(...)` first.")
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            is_trained = mode == "full" or (mode == "lora" and _is_lora(name))
        else:
            is_trained = mode != "head" or not name.startswith("adapter.")
        if not is_trained:
            parameter.requires_grad_(False)


def _is_lora(name: str) -> bool:
    return any(mark in name for mark in LORA_MARKS)


def optimiser_groups(model: PerceptionModel, config: TrainConfig) -> list[dict[str, Any]]:
    """The model's parameters in the groups of the recipe.

    `default`: the UNet (`backbone.unet.`) at its lower rate, all else at the full one; no decay on biases,
    norms and `gamma`, that is, on parameters of fewer than two dimensions. LoRA weights are new and begin at
    nothing: full rate; and no decay, since it is not the UNet that would decay but what it learns.

    `reference`: the published groups with their accidents, decided by the published names; each task has its rule.

    Raises:
        UsageError: If nothing is trainable, or the published groups are asked for and the model is not built like
            the published one.
    """
    rule = default_rule if config.recipe == "default" else _published_rule(model, config.task)
    rates = {name: getattr(config, name) for name in ("learning_rate", "weight_decay", "unet_lr_scale")}
    return parameter_groups(model.named_parameters(), rule, **rates)


def _published_rule(model: PerceptionModel, task: str) -> Rule:
    """The task's rule, by our names."""
    own = [name for name, _ in model.named_parameters() if not name.startswith("text_encoder.")]
    try:
        names = published_names(task, own)
    except KeyError as error:
        raise UsageError(
            f"recipe=reference sorts parameters as in the published model, and {error.args[0]}. "
            "Use recipe=default for this model."
        ) from error
    return lambda name, parameter: model.published_rule(names[name], parameter)


def default_rule(name: str, parameter: Tensor) -> tuple[bool, bool]:
    """The recommended `Rule`."""
    is_lora = _is_lora(name)
    return name.startswith("backbone.unet.") and not is_lora, parameter.ndim >= 2 and not is_lora


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    rule: Rule,
    *,
    learning_rate: float,
    weight_decay: float,
    unet_lr_scale: float,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters by learning rate and weight decay.

    Args:
        named_parameters: `model.named_parameters()`; frozen parameters are left out.
        rule: Which group a parameter is for.
        learning_rate: Rate of head and adapter.
        weight_decay: Decay, where there is any.
        unet_lr_scale: Rate of the UNet as a share of `learning_rate`.

    Returns:
        Groups for `build_optimiser`, at most four, highest rate first: `name`, `params` (pairs of name and
        parameter), `lr`, `lr_scale`, `weight_decay`.

    Raises:
        UsageError: If nothing is trainable.
    """
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_slow, is_decayed = rule(name, parameter)
            key = (unet_lr_scale if is_slow else 1.0, weight_decay if is_decayed else 0.0)
            groups.setdefault(key, []).append((name, parameter))
    if not groups:
        raise UsageError("Nothing to train: every parameter is frozen. Call `requires_grad_()` on the parts to train.")
    return [
        {
            "name": f"rate x {scale:g}, decay {decay:g}",
            "params": members,
            "lr": learning_rate * scale,
            "lr_scale": scale,
            "weight_decay": decay,
        }
        for (scale, decay), members in sorted(groups.items(), key=itemgetter(0), reverse=True)
    ]


def build_optimiser(
    groups: list[dict[str, Any]], *, kind: OptimiserKind = "adamw", momentum: float = 0.0
) -> torch.optim.Optimizer:
    """The optimiser over `parameter_groups`; each group of it has its parameters' names in `param_names`.

    Args:
        groups: Parameters, rates and decays.
        kind: `adamw`: one fused kernel a step where the devices have it; `adamw_8bit`: its running means in 8 bits,
            in blocks of 256 values, by bitsandbytes (those of small parameters stay float32); `sgd`, whose decay is
            not decoupled: it enters the gradient; `muon`.
        momentum: Of SGD.

    Raises:
        UsageError: If bitsandbytes is needed and not installed.
    """
    if kind == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    if kind == "muon":
        return Muon(split_kernels(groups))
    if kind == "adamw":
        devices = {parameter.device.type for group in groups for _, parameter in group["params"]}
        return torch.optim.AdamW(groups, fused=devices <= _FUSED_DEVICES)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            f"optimiser=adamw_8bit needs bitsandbytes ({error}). Install it: pip install 'vpd-perception[8bit]'."
        ) from error
    return AdamW8bit(groups)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times its `lr_scale`; call before each step with `schedule(step)`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
