"""Linear layers with their weights in eight bits, by torchao."""

from __future__ import annotations

from torch import Tensor, nn

from vpd.errors import UsageError


def check_torchao() -> None:
    """Make sure that torchao is there.

    Raises:
        UsageError: If it is not.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig

        Int8WeightOnlyConfig(set_inductor_config=False)
    except Exception as error:  # what it raises where it is old, or made for another torch
        raise UsageError(
            f'Weights in int8 need torchao 0.18 or newer ({error}): pip install "vpd-perception[int8]", or do without.'
        ) from None


def quantise_linear(module: nn.Module) -> None:
    """Keep the weights of all linear layers in int8, with a scale for each output; they are multiplied in their type.

    Convolutions, two thirds of Stable Diffusion's weights, stay as they are: torchao has no int8 for them.

    Args:
        module: Changed in place; it can be run, not trained, moved or saved.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig(set_inductor_config=False))


def is_quantised(layer: nn.Linear) -> bool:
    """Whether the layer's weights are no plain tensor."""
    return type(layer.weight.data) is not Tensor
