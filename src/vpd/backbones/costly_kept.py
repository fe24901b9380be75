"""Checkpointing that keeps what is costly to make again: outputs of convolutions, matrix products and attention."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
_COSTLY = {
    *(_aten.convolution.default, _aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default),
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_fused_attention_overrideable.default,
}


class CostlyKept(TorchDispatchMode):
    """A context for torch's `checkpoint` of one call, both for its forward pass and for what runs in the backward pass.

    What costly operators made in the first comes out again in the second; all else is made again. The last one's output
    is not kept: blocks only add to it, which needs none of it. torch's `create_selective_checkpoint_contexts` wants
    every operator as often as before, which autocast breaks: it makes a weight narrow once for two calls of a model.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: deque[tuple[Any, Any]] = deque()
        self._is_again = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run the operator, or give what it made before."""
        if func not in _COSTLY or (self._is_again and not self._kept):
            return func(*args, **(kwargs or {}))
        if not self._is_again:
            made = func(*args, **(kwargs or {}))  # kept detached, or it would hold the graph that holds this
            self._kept.append((func, tree_map_only(Tensor, Tensor.detach, made)))
            return made
        before, made = self._kept.popleft()
        if before is not func:
            raise RuntimeError(f"{func} ran in the backward pass where {before} had run in the forward pass.")
        return made

    def __exit__(self, *error: Any) -> None:
        """After a second pass nothing is kept: another backward pass through the same graph makes everything again."""
        super().__exit__(*error)
        if self._is_again:
            self._kept.clear()
        elif self._kept:
            self._kept.pop()
        self._is_again = True
