"""The Muon optimiser for small convolutional networks: steps of orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic iteration that drives singular values to about 1."""
ITERATIONS = 5


class Muon(Optimizer):
    """Momentum whose matrices are replaced by the nearest orthogonal ones; kernels count as matrices (out, rest).

    A step then moves every direction of a layer alike, where Adam mostly moves the strongest. Steps are scaled to
    the size that Adam's would have, so its learning rates serve.

    Args:
        params: Convolution or linear weights.
        lr: Learning rate.
        momentum: Share of the old momentum kept.
        weight_decay: Shrinks weights by this times `lr`.

    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), scaled as in Liu et al. 2025
    (https://arxiv.org/abs/2502.16982), section 2.2.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(state["momentum"], group["momentum"])  # Nesterov's
                matrix = orthogonalise(ahead.flatten(1))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * max(matrix.shape) ** 0.5  # root mean square 0.2, about Adam's
                weight.add_(matrix.view_as(weight), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought near 1, by five Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if is_tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if is_tall else wide


def split_optimisers(model: nn.Module, *, muon_ratio: float = 2.0) -> list[tuple[Optimizer, float]]:
    """Muon for the inner kernels of a network, AdamW for all else, each with the factor of its learning rate.

    Args:
        model: What to train.
        muon_ratio: Learning rate of Muon over that of AdamW.
    """
    kernels = [weight for weight in model.parameters() if weight.ndim >= 2 and min(weight.shape[:2]) > 8]
    chosen = {id(weight) for weight in kernels}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    adam = AdamW(others, lr=1.0, betas=(0.9, 0.99), weight_decay=1e-4)
    return [(Muon(kernels), muon_ratio), (adam, 1.0)]
