"""Tensors that travel between the parts, and the legend of axis letters.

Axes, everywhere in this package: `b` batch, `c` channels, `h w` size of a feature map, `H W` size of an
image, `k` text tokens or class prompts, `n` classes, `heads` attention heads, `d` channels of one head or of
a text embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vpd.config import MapScale
from vpd.errors import UsageError

IGNORE_LABEL = 255
"""Label of pixels that no loss and no metric counts."""
GAIN, SMALLEST_RATIO = 4.0, 0.02
"""Of the scale `log_ratio`; smaller ratios count as this one."""


@dataclass(frozen=True)
class LayerText:
    """What one cross-attention layer makes of the text, the same for every position of the image."""

    key: Tensor | None
    """`(b, heads, k, d)`; none where the text is one token, which gets all attention whatever the query."""
    value: Tensor
    """`(b, heads, k, d)`; of one token `(b, 1, c)`, after the output projection: what the layer adds."""


Text = Tensor | tuple[LayerText, ...]
"""What the UNet is conditioned on: embeddings `(b, k, d)`, `(1, k, d)` where it is the same for all images; or what
each of its cross-attention layers makes of them, in the order in which they run."""


@dataclass(frozen=True)
class Features:
    """What the backbone hands to a head. Text enters only as what the features were conditioned on."""

    maps: tuple[Tensor, ...]
    """UNet features `(b, c, h, w)`, finest first."""
    strides: tuple[int, ...]
    """Image pixels to one step of each map."""
    attention: Mapping[int, Tensor]
    """Stride -> cross-attention `(b, k, h, w)`, averaged over heads and layers; each sums to 1 over k."""

    def with_attention(self, scale: MapScale = "probability") -> tuple[Tensor, ...]:
        """Maps with the attention of the same stride concatenated to their channels (paper, section 3.3).

        Args:
            scale: How attention enters; see `MapScale`.
        """
        return tuple(
            torch.cat([features, scale_attention(self.attention[stride], scale)], dim=1)
            if stride in self.attention
            else features
            for features, stride in zip(self.maps, self.strides, strict=True)
        )


def check_text(text_embeds: Tensor, dim: int) -> None:
    """Refuse prompts of another width than a model's.

    Raises:
        UsageError: If they are not `(b, k, dim)`.
    """
    if text_embeds.ndim != 3 or text_embeds.shape[-1] != dim:
        raise UsageError(
            f"text_embeds is {tuple(text_embeds.shape)}; this model needs (images, tokens or classes, {dim}), as "
            "made by the text encoder of its diffusion model."
        )


def scale_attention(attention: Tensor, scale: MapScale) -> Tensor:
    """Attention `(b, k, h, w)` as a head gets it; see `MapScale`."""
    if scale == "probability":
        return attention
    return GAIN * (attention * attention.shape[1]).clamp(min=SMALLEST_RATIO).log()


@dataclass
class Batch:
    """A training or evaluation batch; the task decides which of the optional parts must be there."""

    images: Tensor
    """`(b, 3, H, W)`, RGB in [-1, 1]."""
    names: list[str]
    """Names of the samples, for messages."""
    labels: Tensor | None = None
    """`(b, H, W)` int64 class of each pixel, 255 = ignored."""
    masks: Tensor | None = None
    """`(b, H, W)` int64, 1 inside the referred object."""
    depth_m: Tensor | None = None
    """`(b, 1, H, W)` metres, 0 = not measured."""
    texts: list[str] | None = None
    """Referring expression of each sample."""
    scenes: list[str | None] | None = None
    """Scene class of each sample, where known."""
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    """Number in the data set, and problem, of each sample that could not be read and was replaced by another."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from by itself; torch's loaders call it by this name."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where it is needed; a GPU is given it without waiting for what it still has to do."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
