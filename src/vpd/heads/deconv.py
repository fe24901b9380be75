"""Fused features and deconvolutions: the head of the published depth model."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.config import HeadNorm
from vpd.heads.norms import GroupNorm, build_norm


class DeconvHead(nn.Module):
    """Feature maps -> depth, sigmoid-bounded.

    Args:
        channels: Channels of four incoming maps, finest first.
        strides: Their strides, pixels.
        max_depth_m: Largest depth, metres.
        feature_channels: Width of the fused features at the third stride.
        deconv_channels: Filters of the deconvolutions; each doubles the size.
        head_channels: Width of the last layers.
        norm: Normalisation after the deconvolutions, `batch` (as published) or `group`.

    Shape:
        maps `(b, channels[i], h_i, w_i)`, finest first -> `(b, 1, H, W)` metres, H = h_2 times its stride
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        max_depth_m: float,
        feature_channels: int = 1536,
        deconv_channels: tuple[int, ...] = (32, 32, 32),
        head_channels: int = 192,
        norm: HeadNorm = "batch",
    ) -> None:
        super().__init__()
        fine, middle = channels[:2]
        self.max_depth_m = max_depth_m
        self.fused_stride = strides[2]
        self.num_doublings = int(math.log2(self.fused_stride)) - len(deconv_channels)
        self.reduce_fine = nn.Sequential(
            nn.Conv2d(fine, fine, kernel_size=3, stride=2, padding=1),
            GroupNorm(16, fine),
            nn.ReLU(),
            nn.Conv2d(fine, fine, kernel_size=3, stride=2, padding=1),
        )
        self.reduce_middle = nn.Sequential(nn.Conv2d(middle, middle, kernel_size=3, stride=2, padding=1))
        join = nn.Conv2d(sum(channels), feature_channels, kernel_size=1)
        self.fuse = nn.Sequential(join, GroupNorm(16, feature_channels), nn.ReLU())
        widths = [feature_channels, *deconv_channels]
        self.deconvs = nn.Sequential()
        for in_channels, out_channels in pairwise(widths):
            deconv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2, bias=False)
            self.deconvs.extend([deconv, build_norm(norm, out_channels), nn.ReLU()])
        widen = nn.Conv2d(widths[-1], head_channels, kernel_size=3, padding=1)
        self.widen = nn.Sequential(widen, build_norm(norm, head_channels), nn.ReLU())
        self.predictor = nn.Sequential(
            nn.Conv2d(head_channels, head_channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(head_channels, 1, kernel_size=3, padding=1),
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Depth in metres, in (0, max_depth_m)."""
        return self.decode(self.fused(maps))

    def fused(self, maps: tuple[Tensor, ...]) -> Tensor:
        """All maps at the third stride, `(b, feature_channels, h_2, w_2)`."""
        fine, middle, coarse, coarsest = maps
        size = coarse.shape[-2:]
        joined = [self.reduce_fine(fine), self.reduce_middle(middle), coarse]
        joined.append(F.interpolate(coarsest, size=size, mode="nearest"))
        return self.fuse(torch.cat(joined, dim=1))

    def decode(self, fused: Tensor) -> Tensor:
        """Depth from fused features, at `fused_stride` times their size."""
        hidden = self.widen(self.deconvs(fused))
        for _ in range(self.num_doublings):
            hidden = F.interpolate(hidden, scale_factor=2, mode="bilinear", align_corners=False)
        return self.predictor(hidden).sigmoid() * self.max_depth_m
