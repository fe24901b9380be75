"""What the layers of diffusers' UNet and autoencoder compute, with attention maps and without needless work.

The layers themselves hold the weights and are called as they are. Without gradient, what a layer has just made is
added to in place; with gradient, what is cheap to make again is not kept. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn

from vpd.backbones.group_norm import Sum, add, added, group_norm, has_kernel, sum_and_norm
from vpd.backbones.packed_layers import PackedLinear
from vpd.backbones.recomputed import recomputed
from vpd.tensors import LayerText

Layer = Any  # a module of diffusers, whose attributes it does not type


def residual_block(resnet: Layer, hidden: Tensor | Sum, time_embed: Tensor | None) -> Sum:
    """`resnet(hidden, time_embed)`, of UNet or autoencoder: the same bits in fewer passes and with less kept.

    diffusers' own forward divides by an output scale of 1 and never writes in place: a third of the time of the
    large maps in the autoencoder. It is called where a block is cut into shards, or is of another kind.
    """
    is_plain = isinstance(resnet.nonlinearity, nn.SiLU) and resnet.time_embedding_norm == "default"
    is_plain = is_plain and resnet.output_scale_factor == 1 and not (resnet.up or resnet.down)
    if not is_plain or (torch.is_grad_enabled() and type(resnet) is not ResnetBlock2D):
        return Sum(resnet(added(hidden), time_embed))
    skipped, inner = sum_and_norm(resnet.norm1, hidden, silu=True)
    inner, shift = convolve(resnet.conv1, inner)
    if time_embed is not None:
        shift = _both(resnet.time_emb_proj(F.silu(time_embed)), shift)
    inner = resnet.dropout(group_norm(resnet.norm2, inner, silu=True, shift=shift))
    inner, shift = convolve(resnet.conv2, inner)
    if resnet.conv_shortcut is not None:
        skipped, of_shortcut = convolve(resnet.conv_shortcut, skipped)
        shift = _both(shift, of_shortcut)
    return Sum(inner, skipped, shift)


def convolve(conv: Layer, maps: Tensor) -> tuple[Tensor, Tensor | None]:
    """`conv(maps)`, which on a GPU still lacks a shift `(1, c)`, its bias, or None where nothing is lacking.

    There torch adds a bias in a pass over the map of its own; the kernel that comes next does it on its way.
    """
    if not _is_plain(conv) or conv.bias is None or conv.padding_mode != "zeros" or not has_kernel(conv.weight):
        return conv(maps), None
    if conv.kernel_size == (1, 1) and not has_kernel(maps):  # such weights are in both orders, and tell nothing
        return conv(maps), None
    maps = F.conv2d(maps, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return maps, conv.bias[None]


def _is_plain(layer: Layer) -> bool:
    """Whether a layer does what its weights say: of no other class, such as one with LoRA, and without hooks."""
    return type(layer) is nn.Conv2d and not (layer._forward_hooks or layer._forward_pre_hooks)


def _both(shift: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if shift is None else shift if other is None else shift + other


def _feed_forward(feed_forward: Layer, tokens: Tensor) -> Tensor:
    """`feed_forward(tokens)`, `(b, n, c)`; of gate and product only what they are made of is kept."""
    if not torch.is_grad_enabled() or type(feed_forward) is not FeedForward or type(feed_forward.net[0]) is not GEGLU:
        return feed_forward(tokens)
    first, *others = feed_forward.net
    tokens = recomputed(_gated, first.proj(tokens))
    for layer in others:
        tokens = layer(tokens)
    return tokens


def _gated(projected: Tensor) -> Tensor:
    hidden, gate = projected.chunk(2, dim=-1)
    return hidden * F.gelu(gate)


class PackedGEGLU(nn.Module):
    """diffusers' `GEGLU`, half of a linear layer times the exact GELU of the other half, packed in bfloat16."""

    def __init__(self, geglu: Layer) -> None:
        super().__init__()
        (hidden, gate), (hidden_bias, gate_bias) = geglu.proj.weight.chunk(2), geglu.proj.bias.chunk(2)
        self.hidden = PackedLinear(hidden, hidden_bias)
        self.gate = PackedLinear(gate, gate_bias, activation="gelu")

    def forward(self, tokens: Tensor) -> Tensor:
        """`(b, n, c) -> (b, n, inner)`."""
        return self.hidden.times(tokens, self.gate(tokens))


def spatial_transformer(
    transformer: Layer,
    hidden: Tensor | Sum,
    texts: Iterator[Tensor | LayerText],
    *,
    with_map: bool,
    merge_above: int | None,
    run: Callable[..., Any],
) -> tuple[Tensor, Tensor | None]:
    """A spatial transformer: maps `(b, c, h, w)` -> the same, and its cross-attention `(b, k, h, w)` if wanted.

    With more positions than `merge_above`, its self-attention merges keys and values.
    """
    residual, normed = sum_and_norm(transformer.norm, hidden)
    height, width = residual.shape[-2:]
    grid = (height, width) if merge_above is not None and height * width > merge_above else None
    tokens = _project_in(transformer, normed)
    del normed
    found = []
    for block in transformer.transformer_blocks:
        tokens, probs = run(_transformer_block, block, tokens, next(texts), with_map, grid)
        found.append(probs)
    if transformer.use_linear_projection:
        tokens = transformer.proj_out(tokens)
    maps, shift = rearrange(tokens, "b (h w) c -> b c h w", h=height), None
    if residual.is_contiguous():  # or the next convolutions would copy their weights into the order of tokens
        maps = maps.contiguous()
    if not transformer.use_linear_projection:
        maps, shift = convolve(transformer.proj_out, maps)
    maps = added(Sum(maps, residual, shift))
    if not with_map:
        return maps, None
    probs = torch.stack(found).mean(dim=0) if len(found) > 1 else found[0]
    return maps, rearrange(probs, "b (h w) k -> b k h w", h=height, w=width)


def _project_in(transformer: Layer, maps: Tensor) -> Tensor:
    """Tokens of maps, `(b, c, h, w) -> (b, h*w, inner)`."""
    layer = transformer.proj_in
    if transformer.use_linear_projection:
        return layer(rearrange(maps, "b c h w -> b (h w) c"))
    if _is_plain(layer) and has_kernel(maps):  # the same as a product of tokens, which adds the bias itself
        return F.linear(rearrange(maps, "b c h w -> b (h w) c"), layer.weight[:, :, 0, 0], layer.bias)
    return rearrange(layer(maps), "b c h w -> b (h w) c")


def _transformer_block(
    block: Layer, tokens: Tensor, text: Tensor | LayerText, with_map: bool, grid: tuple[int, int] | None
) -> tuple[Tensor, Tensor | None]:
    """Self-attention, cross-attention, feed-forward; the cross-attention `(b, h*w, k)` if wanted.

    Where the tokens' `grid` is given, four neighbours share a key and a value in self-attention.
    """
    normed, attn = block.norm1(tokens), block.attn1
    attended_to = normed if grid is None else _merge_neighbours(normed, grid)
    key, value = _heads(attn, attn.to_k(attended_to)), _heads(attn, attn.to_v(attended_to))
    tokens = add(_attend(attn, normed, key, value, with_map=False)[0], tokens)
    text = read_layer_text(block.attn2, text) if isinstance(text, Tensor) else text
    if text.key is None:
        tokens, probs = add(tokens, text.value), tokens.new_ones(*tokens.shape[:2], 1) if with_map else None
    else:
        attended, probs = _attend(block.attn2, block.norm2(tokens), text.key, text.value, with_map=with_map)
        tokens = add(attended, tokens)
    return add(_feed_forward(block.ff, block.norm3(tokens)), tokens), probs


def read_layer_text(attn: Layer, text_embeds: Tensor) -> LayerText:
    """Keys and values; where one token alone is attended to, what comes of it (in training its queries get zeros)."""
    if text_embeds.shape[1] == 1 and not torch.is_grad_enabled():
        return LayerText(key=None, value=attn.to_out[0](attn.to_v(text_embeds)))
    return LayerText(key=_heads(attn, attn.to_k(text_embeds)), value=_heads(attn, attn.to_v(text_embeds)))


def _merge_neighbours(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of 2x2 tokens, `(b, h*w, c) -> (b, ceil(h/2)*ceil(w/2), c)`; those of projections are theirs projected.

    Queries stay as many as they are, so that no detail is lost where it is looked for (arXiv 2402.13573 takes every
    other key and value; their means cost the same).
    """
    maps = rearrange(tokens, "b (h w) c -> b c h w", h=grid[0])
    return rearrange(F.avg_pool2d(maps, 2, ceil_mode=True), "b c h w -> b (h w) c")


def _heads(attn: Layer, projected: Tensor) -> Tensor:
    return rearrange(projected, "b n (heads d) -> b heads n d", heads=attn.heads)


def _attend(attn: Layer, tokens: Tensor, key: Tensor, value: Tensor, *, with_map: bool) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention; explicit probabilities, averaged over heads, only where they are wanted."""
    query, dtype = _heads(attn, attn.to_q(tokens)), value.dtype
    if attn.upcast_attention:  # Stable Diffusion 2.1 overflows in half precision
        query, key = query.float(), key.float()
    mean_probs = None
    if with_map:
        probs = (query * attn.scale @ key.mT).softmax(dim=-1).to(value.dtype)  # (b, heads, h*w, k)
        mean_probs = probs.mean(dim=1)
        attended = probs @ value
    else:
        key, value = (part.expand(query.shape[0], -1, -1, -1) for part in (key, value.to(query.dtype)))
        attended = F.scaled_dot_product_attention(query, key, value).to(dtype)
    merged = rearrange(attended, "b heads n d -> b n (heads d)")
    return attn.to_out[1](attn.to_out[0](merged)), mean_probs
