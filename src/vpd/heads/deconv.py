"""Fused features and deconvolutions: the head of the published depth model."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpd.config import DepthScale, HeadNorm, HeadPadding
from vpd.heads.norms import GroupNorm, build_norm

LOG_RANGE = 100
"""Largest over least depth of a logarithmic scale: 0.1 to 10 m, 0.8 to 80 m."""


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
        padding: What the last layers see beyond the border: `zeros` (as published), or the border's own values.
        has_skips: Whether the two finest maps also enter between the deconvolutions, at their own size.
        scale: How the last layer's outputs become depth, see `DepthScale`.

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
        padding: HeadPadding = "zeros",
        has_skips: bool = False,
        scale: DepthScale = "linear",
    ) -> None:
        super().__init__()
        fine, middle = channels[:2]
        self.max_depth_m = max_depth_m
        self.scale = scale
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
        into = zip((middle, fine), deconv_channels, strict=False) if has_skips else ()
        self.skips = nn.ModuleList(nn.Conv2d(of_map, width, kernel_size=1) for of_map, width in into)
        for parameter in self.skips.parameters():  # a head begins as one without them; any other start learns less
            nn.init.zeros_(parameter)
        # Three convolutions take a pixel each from the border; of the last two they are pixels of the full size.
        self.margin = 0 if padding == "zeros" else 1 + math.ceil(2 / 2**self.num_doublings)
        zeros = int(padding == "zeros")
        widen = nn.Conv2d(widths[-1], head_channels, kernel_size=3, padding=zeros)
        self.widen = nn.Sequential(widen, build_norm(norm, head_channels), nn.ReLU())
        self.predictor = nn.Sequential(
            nn.Conv2d(head_channels, head_channels, kernel_size=3, padding=zeros),
            nn.ReLU(),
            nn.Conv2d(head_channels, 1, kernel_size=3, padding=zeros),
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Depth in metres, in (0, max_depth_m)."""
        return self.decode(self.fused(maps), maps)

    def fused(self, maps: tuple[Tensor, ...]) -> Tensor:
        """All maps at the third stride, `(b, feature_channels, h_2, w_2)`."""
        fine, middle, coarse, coarsest = maps
        size = coarse.shape[-2:]
        joined = [self.reduce_fine(fine), self.reduce_middle(middle), coarse]
        joined.append(F.interpolate(coarsest, size=size, mode="nearest"))
        return self.fuse(torch.cat(joined, dim=1))

    def decode(self, fused: Tensor, maps: tuple[Tensor, ...] = ()) -> Tensor:
        """Depth from fused features, at `fused_stride` times their size; `maps` for the skips, if there are any."""
        hidden, doublings = fused, iter(self.deconvs)
        for place, (deconv, norm, activation) in enumerate(zip(doublings, doublings, doublings, strict=True)):
            hidden = deconv(hidden)
            if place < len(self.skips):
                skipped = maps[1 - place][..., : hidden.shape[-2], : hidden.shape[-1]]  # as much as `fused` was cut to
                hidden = hidden + self.skips[place](skipped)
            hidden = activation(norm(hidden))
        hidden = self.widen(_replicated(hidden, self.margin))
        for _ in range(self.num_doublings):
            hidden = F.interpolate(hidden, scale_factor=2, mode="bilinear", align_corners=False)
        share = self.predictor(hidden).sigmoid()
        if self.margin:
            more = (self.margin - 1) * 2**self.num_doublings - 2  # than the two pixels that the last layers take
            share = share[..., more : share.shape[-2] - more, more : share.shape[-1] - more]
        if self.scale == "log":
            return self.max_depth_m * LOG_RANGE ** (share - 1)
        return share * self.max_depth_m


def _replicated(maps: Tensor, by: int) -> Tensor:
    """With the values of the border so many times around it; not by `F.pad`, whose gradients on GPUs vary."""
    if not by:
        return maps
    if maps.requires_grad and torch.is_grad_enabled():
        return _Replicated.apply(maps, by)
    return _around(maps, by)


def _around(maps: Tensor, by: int) -> Tensor:
    maps = torch.cat([*[maps[..., :1]] * by, maps, *[maps[..., -1:]] * by], dim=-1)
    return torch.cat([*[maps[..., :1, :]] * by, maps, *[maps[..., -1:, :]] * by], dim=-2)


class _Replicated(torch.autograd.Function):
    """Its gradients are added at the border alone, in the order of the maps: slices' own fill whole maps with zeros."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, by: int) -> Tensor:
        ctx.by = by
        return _around(maps, by)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        by = ctx.by
        for axis in (-2, -1):
            size = grad.shape[axis] - 2 * by
            inner = grad.narrow(axis, by, size).clone()
            inner.narrow(axis, 0, 1).add_(grad.narrow(axis, 0, by).sum(dim=axis, keepdim=True))
            inner.narrow(axis, size - 1, 1).add_(grad.narrow(axis, by + size, by).sum(dim=axis, keepdim=True))
            grad = inner
        return grad, None
