"""A mask decoder that reads the sentence itself and knows where in the picture it looks."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vpd.config import HeadNorm
from vpd.heads.norms import build_norm
from vpd.prompts.reading import WordBlock, attend, feed_forward

_WAVES = 4
"""Frequencies of a position, from half a wave across the picture on, each twice the one before."""


class GroundedHead(nn.Module):
    """Positions and words look at one another, then the mask is drawn on the finest map.

    The published head hears of the sentence only what the UNet's features say of it, and of places only what the
    padding of convolutions tells. Here the maps but the finest are fused at the size of the second finest; each of
    `layers` layers lets its positions attend to one another, the words to the positions, and the positions to the
    words, as two-way decoders do (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A). Positions are
    shares of width and height, so they mean the same in a picture of any size.

    Args:
        channels: Channels of the incoming maps with their attention, finest first.
        text_dim: Width of the text embeddings.
        token_length: Most tokens of a sentence.
        hidden_channels: Width of the layers, a multiple of 8.
        layers: How many.
        out_channels: 2 for background and object.
        norm: Normalisation of the last convolutions, `batch` or `group`.

    Shape:
        maps `(b, channels[i], h_i, w_i)`, finest first, words `(b, k, text_dim)` -> `(b, out_channels, h_0, w_0)`
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        text_dim: int,
        token_length: int,
        hidden_channels: int = 96,
        layers: int = 3,
        out_channels: int = 2,
        norm: HeadNorm = "batch",
    ) -> None:
        super().__init__()
        finest, *coarser = channels
        self.words = nn.Linear(text_dim, hidden_channels)
        self.order = nn.Parameter(torch.randn(token_length, hidden_channels) * 0.02)
        self.reader = nn.ModuleList(WordBlock(hidden_channels) for _ in range(2))
        self.laterals = nn.ModuleList(nn.Conv2d(width, hidden_channels, kernel_size=1) for width in coarser)
        self.places = nn.Linear(2 + 4 * _WAVES, hidden_channels)
        self.layers = nn.ModuleList(GroundedLayer(hidden_channels) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden_channels)
        self.finest = nn.Conv2d(finest, hidden_channels // 2, kernel_size=1)
        inner: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False}
        self.draw = nn.Sequential(
            nn.Conv2d(hidden_channels + hidden_channels // 2, hidden_channels, **inner),
            build_norm(norm, hidden_channels),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, **inner),
            build_norm(norm, hidden_channels),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(hidden_channels, out_channels, kernel_size=1)

    def forward(self, maps: tuple[Tensor, ...], words: Tensor) -> Tensor:
        """Logits at the size of the finest map."""
        finest, *coarser = maps
        words = self.words(words) + self.order[: words.shape[1]]
        for block in self.reader:
            words = block(words)
        fused = self.laterals[-1](coarser[-1])
        for lateral, features in zip(reversed(self.laterals[:-1]), reversed(coarser[:-1]), strict=True):
            above = F.interpolate(fused, features.shape[-2:], mode="bilinear", align_corners=False)
            fused = lateral(features) + above
        height, width = fused.shape[-2:]
        pixels = rearrange(fused, "b c h w -> b (h w) c")
        places = self.places(place_waves(height, width, like=pixels))
        for layer in self.layers:
            pixels, words = layer(pixels, words, places)
        fused = rearrange(self.norm(pixels), "b (h w) c -> b c h w", h=height)
        fused = F.interpolate(fused, finest.shape[-2:], mode="bilinear", align_corners=False)
        return self.classifier(self.draw(torch.cat([fused, self.finest(finest)], dim=1)))


class GroundedLayer(nn.Module):
    """Positions among themselves, words to positions, positions to words; each residual, after a LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        names = ("among", "to_pixels", "to_words")
        self.queries = nn.ModuleDict({name: nn.Linear(dim, dim) for name in names})
        self.keys = nn.ModuleDict({name: nn.Linear(dim, dim) for name in names})
        self.values = nn.ModuleDict({name: nn.Linear(dim, dim) for name in names})
        self.outs = nn.ModuleDict({name: nn.Linear(dim, dim) for name in names})
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(dim) for name in ("among", "pixels", "words", "asking", "pixels_ff", "words_ff")}
        )
        self.pixels_ff, self.words_ff = feed_forward(dim), feed_forward(dim)

    def forward(self, pixels: Tensor, words: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """`(b, h*w, c)`, `(b, k, c)` and `(h*w, c)` -> the first two."""
        normed = self.norms["among"](pixels)
        pixels = pixels + self._attend("among", normed + places, normed + places, normed)
        normed = self.norms["pixels"](pixels)
        words = words + self._attend("to_pixels", self.norms["words"](words), normed + places, normed + places)
        words = words + self.words_ff(self.norms["words_ff"](words))
        heard = self.norms["words"](words)
        pixels = pixels + self._attend("to_words", self.norms["asking"](pixels) + places, heard, heard)
        return pixels + self.pixels_ff(self.norms["pixels_ff"](pixels)), words

    def _attend(self, name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = attend(self.queries[name](query), self.keys[name](key), self.values[name](value))
        return self.outs[name](attended)


def place_waves(height: int, width: int, *, like: Tensor) -> Tensor:
    """What tells positions apart: coordinates from -1 to 1, and sines and cosines of them, `(height * width, 18)`."""
    across, down = (
        (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size * 2 - 1 for size in (width, height)
    )
    places = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).flatten(0, 1)
    angles = [places * (math.pi / 2 * 2**wave) for wave in range(_WAVES)]
    waves = torch.cat([places, *(part for angle in angles for part in (angle.sin(), angle.cos()))], dim=1)
    return waves.to(like.dtype)
