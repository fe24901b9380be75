"""Feature pyramid with a semantic head on every level: the head of the published segmentation model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vpd.config import HeadNorm
from vpd.heads.norms import build_norm


class ConvNormAct(nn.Module):
    """3x3 convolution, normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: HeadNorm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm = build_norm(norm, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, in_channels, h, w) -> (b, out_channels, h, w)`."""
        return F.relu(self.norm(self.conv(features)))


class FPNHead(nn.Module):
    """Feature pyramid (Lin et al. 2017) and semantic FPN head (Kirillov et al. 2019).

    Args:
        channels: Channels of the incoming maps, finest first.
        out_channels: Classes, or width of an embedding.
        hidden_channels: Width of the pyramid and of the head.
        dropout: Dropout of whole channels before the last layer.
        norm: Normalisation, `batch` (as published) or `group`.

    Shape:
        maps `(b, channels[i], h_i, w_i)`, finest first -> `(b, out_channels, h_0, w_0)`
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        out_channels: int,
        hidden_channels: int = 256,
        dropout: float = 0.1,
        norm: HeadNorm = "batch",
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, hidden_channels, kernel_size=1) for width in channels)
        outputs = (nn.Conv2d(hidden_channels, hidden_channels, kernel_size=3, padding=1) for _ in channels)
        self.outputs = nn.ModuleList(outputs)
        self.towers = nn.ModuleList(_tower(level, hidden_channels, norm) for level in range(len(channels)))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(hidden_channels, out_channels, kernel_size=1)
        for name, parameter in [*self.laterals.named_parameters(), *self.outputs.named_parameters()]:
            nn.init.xavier_uniform_(parameter) if name.endswith("weight") else nn.init.zeros_(parameter)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits at the size of the finest map."""
        return self.classifier(self.dropout(self.fuse(self.pyramid(maps))))

    def pyramid(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Top-down pathway: `(b, hidden_channels, h_i, w_i)` of every level, finest first."""
        levels = [lateral(features) for lateral, features in zip(self.laterals, maps, strict=True)]
        for level in range(len(levels) - 1, 0, -1):
            finer = levels[level - 1]
            levels[level - 1] = finer + F.interpolate(levels[level], size=finer.shape[-2:], mode="nearest")
        return [output(features) for output, features in zip(self.outputs, levels, strict=True)]

    def fuse(self, levels: list[Tensor]) -> Tensor:
        """Sum of all towers at the size of the finest level."""
        size = levels[0].shape[-2:]
        fused = self.towers[0](levels[0])
        for tower, features in zip(list(self.towers)[1:], levels[1:], strict=True):
            upsampled = tower(features)
            if upsampled.shape[-2:] != size:  # odd sizes: doubling does not meet the finest level
                upsampled = F.interpolate(upsampled, size=size, mode="bilinear", align_corners=False)
            fused = fused + upsampled
        return fused


def _tower(level: int, channels: int, norm: HeadNorm) -> nn.Sequential:
    """Convolutions of one level, each followed by a doubling except on the finest: 1, 1, 2, 3 of them."""
    layers: list[nn.Module] = []
    for _ in range(max(1, level)):
        layers.append(ConvNormAct(channels, channels, norm))
        if level:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
