"""Coarse-to-fine mask decoder: the head of the published referring model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.config import HeadNorm
from vpd.heads.norms import build_norm


class CascadeStage(nn.Module):
    """Upsample, join with the next finer map, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, norm: HeadNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = build_norm(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = build_norm(norm, out_channels)

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        """`(b, c, h, w)` and `(b, c', h', w')` -> `(b, out_channels, h', w')`."""
        coarse = F.interpolate(coarse, size=finer.shape[-2:], mode="bilinear", align_corners=True)
        joined = torch.cat([coarse, finer], dim=1)
        hidden = F.relu(self.norm1(self.conv1(joined)))
        return F.relu(self.norm2(self.conv2(hidden)))


class CascadeHead(nn.Module):
    """From the coarsest map to the finest, one stage a step, then a 1x1 convolution.

    Args:
        channels: Channels of the incoming maps, finest first.
        out_channels: 2 for background and object.
        hidden_channels: Width of every stage.
        norm: Normalisation, `batch` (as published) or `group`.

    Shape:
        maps `(b, channels[i], h_i, w_i)`, finest first -> `(b, out_channels, h_0, w_0)`
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        out_channels: int = 2,
        hidden_channels: int = 640,
        norm: HeadNorm = "batch",
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        widths = [coarsest] + [hidden_channels] * (len(finer) - 1)
        self.stages = nn.ModuleList(
            CascadeStage(width + skip, hidden_channels, norm)
            for width, skip in zip(widths, reversed(finer), strict=True)
        )
        self.classifier = nn.Conv2d(hidden_channels, out_channels, kernel_size=1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits at the size of the finest map."""
        *finer, hidden = maps
        for stage, features in zip(self.stages, reversed(finer), strict=True):
            hidden = stage(hidden, features)
        return self.classifier(hidden)
