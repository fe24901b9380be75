"""The gradients between backward pass and optimiser step: in 16 bits where nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

_STEP_BYTES, _CUDA_STEP_BYTES = 2**26, 2**30
"""Of gradients that are widened for the optimiser at a time. On a GPU each part costs launches, and the memory of the
maps is free again by then."""


class Gradients:
    """Gradients of the parameters of an optimiser, and its steps.

    Under bfloat16 autocast a matrix or kernel is used in bfloat16, so its gradient of one backward pass has no more
    digits, and float32 holds it with 16 bits of zeros. `narrow` keeps it without them: half the memory, the same bits.
    Vectors, such as the weights of norms, stay as they are. Nothing here waits for the device.

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

    @torch.no_grad()
    def scale_and_measure(self, scale: Tensor) -> Tensor:
        """Multiply the gradients by a number; returns their norm over all processes, before `step` clips them.

        Args:
            scale: A scalar, on the device.
        """
        self._scale = scale.float()
        wide = {parameter: parameter.grad for parameter in self._parameters if parameter.grad is not None}
        if wide:
            torch._foreach_mul_([*wide.values()], self._scale)
        if self._narrow:  # each by itself, and in the same order as without
            norms = dict(zip(wide, torch._foreach_norm([*wide.values()]), strict=True)) if wide else {}
            for part in self._parts():
                norms |= dict(zip(part, torch._foreach_norm([*self._widened(part)]), strict=True)) if part else {}
            found = [norms[parameter] for parameter in self._parameters if parameter in norms]
        else:
            found = [*wide.values()]
        self._norm = nn.utils.get_total_norm(found)
        return self._norm.full_tensor() if isinstance(self._norm, DTensor) else self._norm

    def step(self, clip_norm: float | None) -> None:
        """Let the optimiser take a step, after `scale_and_measure`, with gradients shortened to `clip_norm` at most."""
        self._clip([parameter for parameter in self._parameters if parameter.grad is not None], clip_norm)
        for parameters in self._parts():  # those of above are stepped with the first part
            for parameter, wide in zip(parameters, self._widened(parameters), strict=True):
                parameter.grad = wide
                del self._narrow[parameter]
            self._clip(parameters, clip_norm)
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

    def _widened(self, parameters: Sequence[nn.Parameter]) -> Iterable[Tensor]:
        """The scaled gradients of parameters that have narrow ones, in float32: on a GPU in few launches."""
        if not parameters or not parameters[0].is_cuda:  # one is in the cache still when it is used, and then freed
            return (self._narrow[parameter].float().mul_(self._scale) for parameter in parameters)
        narrow = [self._narrow[parameter] for parameter in parameters]
        wide = [torch.empty_like(gradient, dtype=torch.float32) for gradient in narrow]
        torch._foreach_copy_(wide, narrow)
        torch._foreach_mul_(wide, self._scale)
        return wide

    def _clip(self, parameters: Sequence[nn.Parameter], clip_norm: float | None) -> None:
        if clip_norm and parameters:
            nn.utils.clip_grads_with_norm_(parameters, clip_norm, self._norm)

    def _parts(self) -> Iterator[list[nn.Parameter]]:
        """The parameters whose gradients are narrow, as many at a time as may be wide; the last part may be empty."""
        part: list[nn.Parameter] = []
        size = 0
        for parameter in [parameter for parameter in self._parameters if parameter in self._narrow]:
            part.append(parameter)
            size += parameter.nbytes
            if size >= (_CUDA_STEP_BYTES if parameter.is_cuda else _STEP_BYTES):
                yield part
                part, size = [], 0
        yield part
