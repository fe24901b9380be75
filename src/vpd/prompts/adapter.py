"""The text adapter: a small learned correction of frozen text features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextAdapter(nn.Module):
    """`t' = t + gamma * MLP(t)` (paper, section 3.2).

    Args:
        dim: Width of the text embeddings.

    Shape:
        `(..., dim) -> (..., dim)`
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.gamma = nn.Parameter(torch.full((dim,), 1e-4))  # as in the reference: starts next to the identity

    def forward(self, text_embeds: Tensor) -> Tensor:
        """Corrected embeddings of the same shape."""
        return text_embeds + self.gamma * self.mlp(text_embeds)
