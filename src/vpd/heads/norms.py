"""The normalisation layers of the heads: over the batch as published, or over each image alone."""

from __future__ import annotations

from torch import Tensor, nn

from vpd.backbones.group_norm import group_norm, has_kernel
from vpd.config import HeadNorm

_MOST_GROUPS = 32  # Wu and He 2018, https://arxiv.org/abs/1803.08494
_LEAST_CHANNELS = 8
"""Of a group; a group of one channel would wash out what that channel says of the image as a whole."""


class GroupNorm(nn.GroupNorm):
    """torch's; on a GPU, maps in channels-last order stay in it."""

    def forward(self, maps: Tensor) -> Tensor:
        """`(b, c, h, w)` -> the same."""
        return group_norm(self, maps) if has_kernel(maps) else super().forward(maps)


def build_norm(kind: HeadNorm, channels: int) -> nn.Module:
    """`batch` = BatchNorm; `group` = GroupNorm of at most 32 groups of 8 channels or more (one if there are fewer)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    most = max(1, min(_MOST_GROUPS, channels // _LEAST_CHANNELS))
    return GroupNorm(max(number for number in range(1, most + 1) if channels % number == 0), channels)
