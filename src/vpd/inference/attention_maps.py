"""Where a diffusion model looks for each word of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.drawing.overlays import enlarge
from vpd.files.images import to_tensor
from vpd.prompts.encoder import TextEncoder

_WORD_END = "</w>"
_DIMMED = 0.25
"""Brightness of the picture where nothing of the word is."""


@dataclass(frozen=True)
class WordMap:
    """Cross-attention to one word."""

    word: str
    attention: Tensor
    """`(H, W)` at the picture's size, not negative; over all tokens of the text it sums to 1 at each pixel."""

    def picture(self, image: Image.Image) -> Image.Image:
        """The image, bright where the word is attended to most and dimmed where least."""
        low, high = float(self.attention.min()), float(self.attention.max())
        share = ((self.attention - low) / max(high - low, 1e-12)).numpy()
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        bright = pixels * (_DIMMED + (1 - _DIMMED) * share[..., None])
        return enlarge(Image.fromarray(bright.round().astype(np.uint8)))


@torch.no_grad()
def word_maps(
    backbone: StableDiffusionBackbone,
    encoder: TextEncoder,
    image: Image.Image,
    text: str,
    *,
    adapter: nn.Module | None = None,
    stride: int | None = None,
    length: int | None = None,
) -> list[WordMap]:
    """Attention to each word of a text, in reading order; a word of several tokens has their sum.

    Args:
        backbone: The diffusion model.
        encoder: Its text encoder.
        image: RGB.
        text: Words; those beyond the encoder's length are left out.
        adapter: Text adapter of an adapted model, if its own attention is wanted.
        stride: Pixels to one step of the map; none = the finest there is.
        length: Tokens that the text is padded or cut to, as the model was trained; none = the encoder's longest.

    Raises:
        ValueError: If the backbone has no map of this stride.
    """
    strides = backbone.attention_strides
    stride = min(strides) if stride is None else stride
    if stride not in strides:
        raise ValueError(f"This backbone has attention maps at strides {strides}, not at {stride}.")
    length = encoder.model.config.max_position_embeddings if length is None else length
    words = [(word, places) for word, places in words_of_tokens(encoder, text) if places[-1] < length - 1]
    embeds = encoder.tokens([text], length=length)
    embeds = embeds.to(next(backbone.parameters()))
    features = backbone(to_tensor(image).to(embeds), embeds if adapter is None else adapter(embeds))
    width, height = image.size
    attention = F.interpolate(features.attention[stride].float(), scale_factor=stride, mode="bilinear")
    maps = attention[0, :, :height, :width].cpu()
    return [WordMap(word, maps[places].sum(dim=0)) for word, places in words]


def words_of_tokens(encoder: TextEncoder, text: str) -> list[tuple[str, list[int]]]:
    """Words of a text, each with the places of its tokens; the marks of start and end are no words."""
    tokenizer = encoder.tokenizer
    limit = encoder.model.config.max_position_embeddings
    pieces = tokenizer.tokenize(text)[: limit - 2]
    words: list[tuple[str, list[int]]] = []
    is_new = True
    for place, piece in enumerate(pieces, start=1):  # the mark of the start is the first token
        if is_new:
            words.append(("", []))
        word, places = words[-1]
        words[-1] = (word + piece.removesuffix(_WORD_END), [*places, place])
        is_new = piece.endswith(_WORD_END)
    return words
