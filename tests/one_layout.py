"""Whether maps keep one order in memory, on the path that a GPU takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vpd.backbones import group_norm

_MAKES_ROOM = (torch.ops.aten.new_empty.default, torch.ops.aten.new_zeros.default)


def layout(tensor: Tensor) -> str | None:
    """Order of a map in memory; none where both are the same."""
    if tensor.dim() != 4 or tensor.shape[1] == 1 or tensor.shape[2] * tensor.shape[3] == 1:
        return None
    if tensor.is_contiguous():
        return "nchw"
    return "nhwc" if tensor.is_contiguous(memory_format=torch.channels_last) else None


def furthest(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((found.detach().double() - wanted).abs().max() / wanted.abs().max())


class Audit(TorchDispatchMode):
    """Notes each operation whose maps lie in different orders, inputs and output alike.

    torch's own group norm is one of them on a GPU, though not on a CPU: it copies channels-last maps to NCHW.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.additions: list[str] = []
        """Of maps, each a pass over memory of its own; on GPUs a convolution's bias is one, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func in _MAKES_ROOM:
            return result
        if "add" in str(func) and isinstance(result, Tensor) and layout(result) is not None:
            self.additions.append(f"{func} {tuple(result.shape)}")
        if func is torch.ops.aten.convolution.default and args[2] is not None:
            self.additions.append(f"bias {tuple(result.shape)}")
        parts = (*args, *(result if isinstance(result, (list, tuple)) else [result]))
        flat = [value for part in parts for value in (part if isinstance(part, (list, tuple)) else [part])]
        orders = {layout(value) for value in flat if isinstance(value, Tensor)} - {None}
        if func is torch.ops.aten.native_group_norm.default and "nhwc" in orders:
            orders.add("nchw")
        if len(orders) > 1:
            self.found.append(f"{func} {[tuple(value.shape) for value in flat if isinstance(value, Tensor)]}")
        return result


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a GPU's path on a CPU, with a stand-in for the kernels of group norm that needs no Triton."""
    kernels = SimpleNamespace(add=lambda maps, other, shift, summed: _sum(maps, other, shift), normalise=_normalise)
    monkeypatch.setattr(group_norm, "_kernels_for", lambda maps: kernels)
    for name, apply in (("GroupNormSiLU", _norm_of_sum), ("AddMaps", _sum)):
        plain = SimpleNamespace(apply=lambda _kernels, *given, apply=apply: apply(*given))
        monkeypatch.setattr(group_norm, name, plain)
    monkeypatch.setattr(group_norm, "_is_here", lambda device: True)
    monkeypatch.setattr("vpd.optimising.can_pack", lambda: False)
    monkeypatch.setattr("vpd.tasks.losses._BY_ROWS_ON", ("cpu",))


def _sum(maps: Tensor, other: Tensor | None, shift: Tensor | None) -> Tensor:
    total = maps if other is None else maps + other
    return total if shift is None else total + shift[:, :, None, None].to(total.dtype)


def _norm_of_sum(
    maps: Tensor,
    other: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    dtype: torch.dtype,
    is_sum: bool,
) -> Any:
    """As the kernel's autograd function, of operations that see no maps but rows of channels."""
    total = _sum(maps, other, shift)
    images, channels, height, width = total.shape
    rows = total.permute(0, 2, 3, 1).reshape(images, height * width, groups, channels // groups).float()
    variance, mean = torch.var_mean(rows, dim=(1, 3), keepdim=True, correction=0)
    normed = ((rows - mean) * (variance + eps).rsqrt()).flatten(2) * weight + bias
    normed = (F.silu(normed) if silu else normed).to(dtype)
    result = normed.view(images, height, width, channels).permute(0, 3, 1, 2)
    return (total, result) if is_sum else result


def _normalise(
    maps: Tensor, other: Tensor | None, shift: Tensor | None, weight: Tensor, bias: Tensor, **options: Any
) -> Any:
    options.pop("summed")
    given = (options["groups"], options["eps"], options["silu"], options["dtype"])
    total, result = _norm_of_sum(maps, other, shift, weight, bias, *given, True)
    return SimpleNamespace(maps=total, result=result)
