"""A function run once more in the backward pass instead of keeping what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, run once more in the backward pass; the same bits, gradients included.

    For a few small operators this takes a fraction of the time of torch's own checkpointing, which swaps what every
    operator keeps. Gradients of gradients, and `torch.func`, do not go through it. A compiler decides by itself what to
    keep, and gets the function as it is: neither random nor with weights that are not among the inputs.
    """
    if torch.compiler.is_compiling():
        return function(*inputs)
    result: Tensor = _Recomputed.apply(function, *inputs)
    return result


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function, ctx.autocast, ctx.modes = function, _autocast_now(inputs[0].device.type), function_modes()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        inputs = [value.detach().requires_grad_(need) for value, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), ctx.autocast, within(ctx.modes):
            result = ctx.function(*inputs)
        found = iter(torch.autograd.grad(result, [value for value in inputs if value.requires_grad], gradient))
        return None, *(next(found) if need else None for need in needed)


def _autocast_now(device: str) -> AbstractContextManager[object]:
    """The precision of now, to be had again in the backward pass."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))


def function_modes() -> Sequence[TorchFunctionMode]:
    """The modes of torch's functions that are active, as when memory is counted; none while compiling.

    The backward pass has none of them, so who runs something again in it must take them there.
    """
    if torch.compiler.is_compiling():
        return ()
    modes: Sequence[TorchFunctionMode] = _get_current_function_mode_stack()
    return modes


@contextmanager
def within(modes: Sequence[AbstractContextManager[object]]) -> Iterator[None]:
    """Activate modes, the first one outermost."""
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        yield
