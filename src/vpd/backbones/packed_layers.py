"""Convolutions and linear layers with their weights in the order in which the CPU's matrix kernels read them.

Plain layers bring their weights into this order at every call, which costs more than the product itself where maps are
small. The operators are those of torch's own compiler for CPUs (oneDNN).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpd.errors import UsageError

_FEWEST_CHANNELS = 16  # with fewer there is nothing to gain
_OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise")


def can_pack() -> bool:
    """Whether this build of torch has the operators."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)


class _Packed(nn.Module):
    """A layer whose weights are in an order of their own and can neither be moved nor saved."""

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> _Packed:
        raise UsageError(
            "This model was optimised for the processor and precision it is in. Move or convert the model that it was "
            "made from, then call vpd.optimise again."
        )


class PackedConv2d(_Packed):
    """A zero-padded `conv` on `(b, c, h, w)` in channels-last order, equal but for rounding (1e-6 in float32)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.geometry)
        self.bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, hidden: Tensor) -> Tensor:
        """`(b, c, h, w)` -> the same as the layer that was packed."""
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(hidden, self.weight, self.bias, *self.geometry, "none", [], "")


class PackedLinear(_Packed):
    """A linear layer, equal to `nn.Linear` but for rounding.

    Args:
        weight: `(out, in)`, in bfloat16, the one type that gains by it.
        bias: `(out,)`, if there is one.
        activation: `gelu` to apply it (exact, by the error function) to what the layer makes, or `none`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach().contiguous()

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., in) -> (..., out)`."""
        return torch.ops.mkldnn._linear_pointwise(hidden, self.weight, self.bias, self.activation, [], "none")

    def times(self, hidden: Tensor, factor: Tensor) -> Tensor:
        """The layer's output times `factor`, in one pass."""
        return torch.ops.mkldnn._linear_pointwise.binary(hidden, factor, self.weight, self.bias, "mul")


def pack_layers(module: nn.Module) -> None:
    """Put packed layers in the place of a module's own, wherever they gain by it.

    The module is on the CPU, in bfloat16 or float32 and channels-last order, and its weights are final.
    """
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Conv2d and _gains(layer):
                parent.set_submodule(name, PackedConv2d(layer))
            elif type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16:
                parent.set_submodule(name, PackedLinear(layer.weight, layer.bias))


def _gains(conv: nn.Conv2d) -> bool:
    is_plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return is_plain and min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS
