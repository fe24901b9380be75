"""Parameter groups and the optimiser, as published and as we recommend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from vpd.backbones.lora import LORA_MARKS
from vpd.config import Recipe
from vpd.errors import UsageError
from vpd.training.config import OptimiserKind
from vpd.training.muon import Muon, split_kernels

STATE_BYTES: dict[OptimiserKind, int] = {"adamw": 8, "adamw_8bit": 2, "sgd": 4, "muon": 8}
"""Bytes of state for each trained value, at most, or nearly so."""
_FUSED_DEVICES = {"cpu", "cuda"}  # where this package was tried with it


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    recipe: Recipe,
    learning_rate: float,
    weight_decay: float,
    unet_lr_scale: float,
    published_name: Callable[[str], str] | None = None,
    published_rule: Callable[[str, Tensor], tuple[bool, bool]] | None = None,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters by learning rate and weight decay.

    `default`: the UNet (`backbone.unet.`) at its lower rate, all else at the full one; no decay on biases,
    norms and `gamma`, that is, on parameters of fewer than two dimensions. LoRA weights are new and begin at
    nothing: full rate; and no decay, since it is not the UNet that would decay but what it learns.

    `reference`: the published groups with their accidents, decided by the published names; each task has its rule.

    Args:
        named_parameters: `model.named_parameters()`; frozen parameters are left out.
        recipe: `reference` or `default`.
        learning_rate: Rate of head and adapter.
        weight_decay: Decay, where there is any.
        unet_lr_scale: Rate of the UNet as a share of `learning_rate`.
        published_name: Our name of a parameter -> its published name; `reference` needs it.
        published_rule: That and the parameter -> whether it trains at the UNet's rate, and whether it decays; likewise.

    Returns:
        Groups for `build_optimiser`, at most four, highest rate first: `name`, `params` (pairs of name and
        parameter), `lr`, `lr_scale`, `weight_decay`.

    Raises:
        UsageError: If nothing is trainable, or published names are needed and not given.
    """
    if recipe == "reference" and (published_name is None or published_rule is None):
        raise UsageError("The reference recipe sorts parameters by their published names: give `published_name`.")
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if recipe == "reference" and published_name is not None and published_rule is not None:
            is_slow, is_decayed = published_rule(published_name(name), parameter)
        else:
            is_lora = any(mark in name for mark in LORA_MARKS)
            is_slow = name.startswith("backbone.unet.") and not is_lora
            is_decayed = parameter.ndim >= 2 and not is_lora
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
    groups: list[dict[str, Any]],
    *,
    kind: OptimiserKind = "adamw",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.0,
) -> torch.optim.Optimizer:
    """The optimiser over `parameter_groups`; each group of it has its parameters' names in `param_names`.

    Args:
        groups: Parameters, rates and decays.
        kind: `adamw`: one fused kernel a step where the devices have it; `adamw_8bit`: its running means in 8 bits,
            in blocks of 256 values, by bitsandbytes (those of small parameters stay float32); `sgd`, whose decay is
            not decoupled: it enters the gradient; `muon`.
        betas: Of AdamW: decay of the running mean and of the running square.
        eps: Of AdamW: added to the root of the running square.
        momentum: Of SGD.

    Raises:
        UsageError: If bitsandbytes is needed and not installed.
    """
    devices = {parameter.device.type for group in groups for _, parameter in group["params"]}
    if kind == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    if kind == "muon":
        return Muon(split_kernels(groups))
    if kind == "adamw":
        return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=devices <= _FUSED_DEVICES)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            f"optimiser=adamw_8bit needs bitsandbytes ({error}). Install it: pip install 'vpd-perception[8bit]'."
        ) from error
    return AdamW8bit(groups, betas=betas, eps=eps)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times its `lr_scale`; call before each step with `schedule(step)`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
