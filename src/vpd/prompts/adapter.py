"""Text on its way into the UNet: the learned adapter, and a text that does not change, prepared once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
