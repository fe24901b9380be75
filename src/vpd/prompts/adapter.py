"""Text on its way into the UNet: the learned adapter, and a text that does not change, prepared once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vpd.prompts.reading import WordBlock
from vpd.tensors import LayerText


class TextAdapter(nn.Module):
    """`t' = t + gamma * MLP(t)` (paper, section 3.2): `(..., dim) -> (..., dim)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.gamma = nn.Parameter(torch.full((dim,), 1e-4))  # as in the reference: starts next to the identity

    def forward(self, text_embeds: Tensor) -> Tensor:
        """Corrected embeddings of the same shape."""
        return text_embeds + self.gamma * self.mlp(text_embeds)


class ReadingAdapter(nn.Module):
    """`t' = t + gamma * transformer(t)`: as `TextAdapter`, but each word is refined by what the others say.

    A sentence means one object by how its words go together, and by words that the text encoder hardly knew before:
    `the small green cone behind the cube`.

    Args:
        dim: Width of the embeddings, a multiple of 4.
        token_length: Most tokens of a text.
    """

    def __init__(self, dim: int, token_length: int) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.randn(token_length, dim) * 0.02)
        self.blocks = nn.ModuleList(WordBlock(dim) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, text_embeds: Tensor) -> Tensor:
        """`(b, k, dim)` -> corrected embeddings of the same shape."""
        words = text_embeds + self.order[: text_embeds.shape[1]]
        for block in self.blocks:
            words = block(words)
        return text_embeds + self.gamma * self.out(self.norm(words))


class PreparedText(nn.Module):
    """Constants of a fixed text; they move with the model and are not saved with it.

    Args:
        embeds: `(1, k, d)`, after the adapter.
        layers: What `StableDiffusionBackbone.read_text` makes of them.
    """

    embeds: Tensor

    def __init__(self, embeds: Tensor, layers: Sequence[LayerText]) -> None:
        super().__init__()
        self.register_buffer("embeds", embeds, persistent=False)
        for index, layer in enumerate(layers):
            key = None if layer.key is None else layer.key.contiguous()
            self.register_buffer(f"key_{index}", key, persistent=False)
            self.register_buffer(f"value_{index}", layer.value.contiguous(), persistent=False)
        self._num_layers = len(layers)

    @property
    def layers(self) -> tuple[LayerText, ...]:
        """To be given to the backbone in the place of text embeddings."""
        return tuple(
            LayerText(key=getattr(self, f"key_{index}"), value=getattr(self, f"value_{index}"))
            for index in range(self._num_layers)
        )
