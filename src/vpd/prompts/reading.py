"""Small transformers over the words of a text."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_HEADS = 4


class WordBlock(nn.Module):
    """Words attend to one another, then each is changed by itself; both residual, after a LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff = feed_forward(dim)

    def forward(self, words: Tensor) -> Tensor:
        """`(b, k, d)` -> the same."""
        query, key, value = self.qkv(self.norm(words)).chunk(3, dim=-1)
        words = words + self.out(attend(query, key, value))
        return words + self.ff(self.ff_norm(words))


def feed_forward(dim: int) -> nn.Sequential:
    """Two linear layers, twice as wide between them."""
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of four heads over the last axis: `(b, n, c)`, `(b, m, c)` twice -> `(b, n, c)`."""
    query, key, value = (rearrange(part, "b n (heads d) -> b heads n d", heads=_HEADS) for part in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value), "b heads n d -> b n (heads d)")
