"""What of a model a training changes: everything, low-rank layers of the UNet, or only what is new."""

from __future__ import annotations

from torch import nn

from vpd.backbones.lora import LORA_MARKS
from vpd.errors import UsageError
from vpd.training.config import Mode


def freeze_parts(model: nn.Module, mode: Mode) -> None:
    """Freeze what a mode does not train; what is frozen already stays so.

    Frozen weights get neither gradients nor optimiser state. What lies before the first trained weight, autograd
    does not record: in mode `head` nothing up to the features, in mode `frozen` what the UNet does before it sees
    the text, since the text adapter learns through the UNet.

    Args:
        model: A task model; for `lora` one whose UNet has low-rank layers.
        mode: `full`, `lora`, `frozen` or `head`.

    Raises:
        UsageError: If the UNet has no low-rank layers to train.
    """
    if mode == "lora" and not any(_is_lora(name) for name, _ in model.named_parameters()):
        raise UsageError("mode=lora, but this model's UNet has no low-rank layers: call `model.add_lora(...)` first.")
    for name, parameter in model.named_parameters():
        if not _is_trained(name, mode):
            parameter.requires_grad_(False)


def _is_trained(name: str, mode: Mode) -> bool:
    if name.startswith("backbone."):
        return mode == "full" or (mode == "lora" and _is_lora(name))
    return mode != "head" or not name.startswith("adapter.")


def _is_lora(name: str) -> bool:
    return any(mark in name for mark in LORA_MARKS)
