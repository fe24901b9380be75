"""The gradients between backward pass and optimiser step: in 16 bits where nothing is lost by it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vpd.training.fsdp import gathered

_STEP_BYTES = 2**26
"""Of gradients that are widened for the optimiser at a time."""


class Gradients:
    """Gradients of the parameters of an optimiser, and its steps.

    Under bfloat16 autocast a matrix or kernel is used in bfloat16, so its gradient of one backward pass has no more
    digits, and float32 holds it with 16 bits of zeros. `narrow` keeps it without them: half the memory, the same bits.
    Vectors, such as the weights of norms, stay as they are.

    Args:
        optimiser: Over the parameters; its state is kept parameter by parameter.
        narrow: Keep gradients of matrices and kernels in bfloat16. Only where each step has one backward pass, as sums
            have more digits, and nobody else wants to see them, as other processes would.
    """

    def __init__(self, optimiser: Optimizer, *, narrow: bool) -> None:
        self._optimiser = optimiser
        self._parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        self._narrow: dict[nn.Parameter, Tensor] = {}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._take)
            for parameter in self._parameters
            if narrow and parameter.ndim > 1 and parameter.dtype == torch.float32
        ]

    def close(self) -> None:
        """Leave the parameters as they were: their next gradients are anybody's."""
        self.clear()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def scale_and_measure(self, scale: float) -> float:
        """Multiply the gradients by a number; returns their norm over all processes, before `step` clips them."""
        self._scale = scale
        wide = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        for gradient in wide:
            gradient.mul_(scale)
        if self._narrow:  # one by one, and in the same order as without
            widened = map(self._widened, self._parameters)
            wide = [nn.utils.get_total_norm([gradient]) for gradient in widened if gradient is not None]
        self._norm = nn.utils.get_total_norm(wide)
        return float(gathered(self._norm))

    def step(self, clip_norm: float | None) -> None:
        """Let the optimiser take a step, after `scale_and_measure`, with gradients shortened to `clip_norm` at most."""
        limit = clip_norm or math.inf
        wide = [parameter for parameter in self._parameters if parameter.grad is not None]
        nn.utils.clip_grads_with_norm_(wide, limit, self._norm)  # all are stepped with the first part
        for parameters in self._parts():
            for parameter in parameters:
                parameter.grad = self._widened(parameter)
                del self._narrow[parameter]
            nn.utils.clip_grads_with_norm_(parameters, limit, self._norm)
            self._optimiser.step()  # passes over parameters without gradient
            self._optimiser.zero_grad(set_to_none=True)

    def clear(self) -> None:
        """Forget all gradients."""
        self._narrow.clear()
        self._optimiser.zero_grad(set_to_none=True)

    def _take(self, parameter: nn.Parameter) -> None:
        """Keep a gradient that was just made."""
        if parameter.grad is not None:
            self._narrow[parameter] = parameter.grad.bfloat16()
            parameter.grad = None

    def _widened(self, parameter: nn.Parameter) -> Tensor | None:
        """The scaled gradient in the type of the parameter, if it has one."""
        narrow = self._narrow.get(parameter)
        return parameter.grad if narrow is None else narrow.float().mul_(self._scale)

    def _parts(self) -> Iterator[list[nn.Parameter]]:
        """The parameters whose gradients are narrow, as many at a time as may be wide; the last part may be empty."""
        part: list[nn.Parameter] = []
        size = 0
        for parameter in [parameter for parameter in self._parameters if parameter in self._narrow]:
            part.append(parameter)
            size += parameter.nbytes
            if size >= _STEP_BYTES:
                yield part
                part, size = [], 0
        yield part
