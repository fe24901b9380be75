"""A head without a vocabulary: pixels are matched with class texts, so classes can be changed freely."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.config import HeadNorm, MapScale
from vpd.heads.fpn import FPNHead
from vpd.tensors import Features, scale_attention


class OpenVocabularyHead(nn.Module):
    """Pixel embeddings times projected class texts, plus the classes' own attention maps.

    Every weight is shared by all classes. The published head concatenates one attention map a class to the
    features, which fixes their number; here each map enters the logit of its own class.

    Args:
        channels: Channels of the incoming maps, finest first.
        attention_strides: Strides that have attention maps.
        text_dim: Width of the text embeddings.
        hidden_channels: Width of the pyramid.
        dropout: Dropout of whole channels before the match.
        embed_dim: Width in which pixels and texts are compared.
        norm: Normalisation of the pyramid, `batch` or `group`.
        map_scale: How attention enters; `probability`: as its ratio to an equal share.

    Shape:
        features, text_embeds `(b, n, text_dim)` -> logits `(b, n, h_0, w_0)`
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        attention_strides: tuple[int, ...],
        text_dim: int,
        hidden_channels: int = 256,
        dropout: float = 0.1,
        embed_dim: int = 256,
        norm: HeadNorm = "batch",
        map_scale: MapScale = "probability",
    ) -> None:
        super().__init__()
        self.pixels = FPNHead(
            channels=channels, out_channels=embed_dim, hidden_channels=hidden_channels, dropout=dropout, norm=norm
        )
        self.text = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, embed_dim))
        nn.init.kaiming_normal_(self.pixels.classifier.weight, nonlinearity="linear")
        self.bias = nn.Linear(embed_dim, 1)
        self.attention_strides, self.map_scale = attention_strides, map_scale
        self.attention_weights = nn.Parameter(torch.zeros(len(attention_strides)))

    def forward(self, features: Features, text_embeds: Tensor) -> Tensor:
        """Logits at the size of the finest map."""
        pixels = self.pixels(features.maps)  # (b, embed, h, w)
        texts = self.text(text_embeds)  # (b, n, embed)
        logits = torch.einsum("bchw,bnc->bnhw", pixels, texts) * pixels.shape[1] ** -0.5
        logits = logits + self.bias(texts)[..., None]
        num_tokens = text_embeds.shape[1]
        for weight, stride in zip(self.attention_weights, self.attention_strides, strict=True):
            attention = features.attention[stride]
            if self.map_scale == "probability":
                attention = attention * num_tokens  # 1 where a class gets its equal share
            else:
                attention = scale_attention(attention, self.map_scale)
            logits = logits + weight * F.interpolate(attention, pixels.shape[-2:], mode="bilinear", align_corners=False)
        return logits
