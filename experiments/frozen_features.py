"""A backbone that does not train and keeps what it made of each pair of image and text, for training heads alone."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.backbones.unet_walk import attention_levels
from vpd.inference.cache import TensorCache, image_key
from vpd.tensors import Features, Text

_DEFAULT_BYTES = 2**30


class FrozenBackbone(StableDiffusionBackbone):
    """A frozen backbone whose features are computed once.

    They are found by the content of image and text. Where all rows of a batch are kept, nothing is computed; where
    one is missing, the whole batch is, so that what is kept does not depend on what came before as long as the images
    first come in the same batches. No gradient flows, not even to the text: a text adapter learns nothing here.

    Args:
        options: As for `StableDiffusionBackbone`.

    Shape:
        As `StableDiffusionBackbone`; the text must be embeddings `(b, k, d)` or `(1, k, d)`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.requires_grad_(False)
        self.kept = TensorCache(_DEFAULT_BYTES)
        """Features, one flat tensor for each pair of image and text; give another cache for another size."""
        self.kept_latents = TensorCache(_DEFAULT_BYTES)
        """Latents of images; may be shared by backbones with the same VAE and the same latent scaling."""
        self.kept_type = torch.float32
        """Of the features that are kept; `bfloat16` takes half the memory and rounds them."""

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """As the base class, each image by itself and only once."""
        keys = [image_key(image) for image in images]
        encode = super().encode
        return self.kept_latents.rows(keys, lambda i: encode(images[i : i + 1])[0], device=images.device)

    @torch.no_grad()
    def forward(self, images: Tensor | None, text_embeds: Text, *, latents: Tensor | None = None) -> Features:
        """Features of images, computed or kept.

        Raises:
            TypeError: If the text is not embeddings, or there are no images.
        """
        if images is None or not isinstance(text_embeds, Tensor):
            raise TypeError("FrozenBackbone finds features by images and the text's embeddings: give these.")
        texts = text_embeds.expand(len(images), -1, -1)
        keys = [_pair_key(image, text) for image, text in zip(images, texts, strict=True)]
        computed: list[Tensor] = []
        features = super().forward

        def compute(index: int) -> Tensor:
            if not computed:
                made = features(images, texts, latents=self.encode(images) if latents is None else latents)
                computed.append(_flatten(made).to(self.kept_type))
            return computed[0][index].clone()

        flat = self.kept.rows(keys, compute, device=images.device).float()
        return self._unflatten(flat, images.shape[-2:], texts.shape[1])

    def _unflatten(self, flat: Tensor, size: torch.Size, num_tokens: int) -> Features:
        shapes = [
            (channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]
        heights = dict(zip(self.strides, shapes, strict=True))
        attention_strides = [self.strides[level] for level in attention_levels(self.unet.config)]
        shapes += [(num_tokens, *heights[stride][1:]) for stride in attention_strides]
        parts = flat.split([math.prod(shape) for shape in shapes], dim=1)
        tensors = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        maps, attention = tensors[: len(self.channels)], tensors[len(self.channels) :]
        return Features(tuple(maps), self.strides, dict(zip(attention_strides, attention, strict=True)))


def _flatten(features: Features) -> Tensor:
    """Maps, then attention in the order of its strides, as `(b, values)`."""
    attention = [features.attention[stride] for stride in features.strides if stride in features.attention]
    return torch.cat([part.flatten(1) for part in (*features.maps, *attention)], dim=1)


def _pair_key(image: Tensor, text: Tensor) -> bytes:
    """Key of the features of an image with a text."""
    return hashlib.sha256(image_key(image) + image_key(text)).digest()
