"""LoRA layers on the attention of the UNet, made by PEFT; the only file that knows it."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from vpd.config import LoraSettings
from vpd.errors import UsageError

_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
LORA_MARKS = (".lora_A.", ".lora_B.")
"""What stands in the names of the added weights, and in no others."""


def add_lora(unet: UNet2DConditionModel, settings: LoraSettings) -> None:
    """Put low-rank layers beside the attention's projections and freeze all other weights of the UNet.

    The UNet is changed in place. An addition is zero at first: outputs stay what they were.

    Raises:
        UsageError: If PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(f"LoRA needs PEFT ({error}). Install it: pip install 'vpd-perception[lora]'.") from error
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=_TARGETS
    )
    inject_adapter_in_model(config, unet)


def merge_lora(unet: UNet2DConditionModel) -> None:
    """Add what low-rank layers have learnt to the weights beside them, and remove the layers; all train again."""
    from peft.tuners.lora import LoraLayer

    layers = [(name, layer) for name, layer in unet.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in layers:
        layer.merge()
        unet.set_submodule(name, layer.get_base_layer())
    del unet.peft_config
    unet.requires_grad_(True)
