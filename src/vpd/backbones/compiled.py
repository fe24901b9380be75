"""Functions that `torch.compile` makes code for, in objects that can be copied and pickled as it cannot."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map


class Compiled:
    """A function of tensors, compiled as a whole for each shape that comes, at the first call with it.

    Not for any shape at once: the second size would cost a compilation as well, and its code is slower. After
    torch's limit (`torch._dynamo.config.recompile_limit`, 8) other shapes run as they are.

    Args:
        function: What is compiled; a method of a module too.
        options: Of `torch.compile`, such as `mode`.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._function, self._options = function, options
        self._code = torch.compile(function, dynamic=False, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles compile for themselves."""
        return partial(Compiled, **self._options), (self._function,)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The function's tensors, in memory of their own: CUDA graphs overwrite theirs at the next call."""
        return tree_map(torch.clone, self._code(*inputs, **options))


class CompiledBlocks:
    """Calls functions of layers by code that is made once for each kind of layer and shape, not for each layer.

    So a network of many like blocks is compiled in parts, which takes a fraction of the time. Kinds beyond `KINDS` run
    as they are; beyond torch's own limit, 8, where `torch.compile` knows no other.

    Args:
        options: Of `torch.compile`.
    """

    KINDS = 64
    """More than the residual and transformer blocks of any Stable Diffusion have, for two shapes each."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._code: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles compile for themselves."""
        return partial(CompiledBlocks, **self._options), ()

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """`function(*inputs)`."""
        if function not in self._code:
            has_limit = "recompile_limit" in inspect.signature(torch.compile).parameters
            limit: dict[str, Any] = {"recompile_limit": self.KINDS} if has_limit else {}
            self._code[function] = torch.compile(function, dynamic=False, **limit, **self._options)
        return self._code[function](*inputs)
