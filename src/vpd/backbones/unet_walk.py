"""One pass through diffusers' UNet that keeps decoder features and cross-attention maps.

The only file that knows how diffusers' `UNet2DConditionModel` is built. It calls the UNet's own layers, so
weights, LoRA layers and precision are whatever the caller put there; nothing is patched and no layer keeps
anything after the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vpd.errors import UsageError

_DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")
_MUST_BE_UNSET = (
    "class_embed_type",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "num_class_embeds",
    "dual_cross_attention",
    "only_cross_attention",
    "attention_type",
    "conv_in_kernel",
    "center_input_sample",
    "cross_attention_norm",
)
_HARMLESS = (None, False, "default", 3)

Layer = Any  # a module of diffusers, whose attributes it does not type


def check_unet(config: dict[str, Any]) -> None:
    """Refuse architectures that the walk does not cover, before any weight is read.

    Raises:
        UsageError: If the UNet is not of the Stable Diffusion 1.x / 2.x family.
    """
    strange = [
        f"{name}={config[name]!r}" for name in _MUST_BE_UNSET if config.get(name) not in _HARMLESS and name in config
    ]
    down, up = config.get("down_block_types", ()), config.get("up_block_types", ())
    strange += [name for name in (*down, *up) if name not in (*_DOWN_BLOCKS, *_UP_BLOCKS)]
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") != "UNetMidBlock2DCrossAttn":
        strange.append(f"mid_block_type={config['mid_block_type']!r}")
    if strange:
        raise UsageError(
            f"This UNet is not of the Stable Diffusion 1.x / 2.x family: {', '.join(map(str, strange))}. "
            "Use a model such as stable-diffusion-v1-5/stable-diffusion-v1-5."
        )


def strip_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Drop the layers after the last feature, which only denoising needs."""
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
    return unet


def attention_levels(config: dict[str, Any]) -> tuple[int, ...]:
    """Resolution levels (0 = finest) whose cross-attention maps are handed out: all that have any but level 0.

    At 512 px these are the maps of 32x32 and 16x16; the finest is left out as in the reference.
    """
    return tuple(level for level, kind in enumerate(config["down_block_types"]) if level and kind == _DOWN_BLOCKS[0])


def tap_channels(config: dict[str, Any]) -> tuple[int, ...]:
    """Channels of the maps that `walk_unet` returns, finest first."""
    return tuple(config["block_out_channels"])


def walk_unet(
    unet: UNet2DConditionModel,
    latents: Tensor,
    *,
    timestep: int,
    text_embeds: Tensor,
    gradient_checkpointing: bool = False,
    detach_maps: bool = False,
) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
    """Decoder features and cross-attention maps of one denoising step, without the denoising.

    Args:
        unet: A UNet that `check_unet` accepts.
        latents: `(b, 4, h, w)`, any size.
        timestep: Diffusion timestep, the same for all images.
        text_embeds: `(b, k, d)` context.
        gradient_checkpointing: Recompute blocks in the backward pass; the maps come out exactly once.
        detach_maps: Cut the maps from the graph.

    Returns:
        Features, finest first: the output of the second layer of each up block, before the block's
        upsampling, and of the last layer of the last block (LDM output blocks 11, 7, 4, 1); and level ->
        `(b, k, h, w)` attention averaged over heads and over all layers of the level's down and up blocks.
    """
    run = _checkpointed if gradient_checkpointing and torch.is_grad_enabled() else _direct
    wanted = attention_levels(unet.config)
    found: dict[int, list[Tensor]] = {level: [] for level in wanted}

    def layer(hidden: Tensor, resnet: Layer, attention: Layer | None, level: int | None) -> Tensor:
        hidden = run(resnet, hidden, time_embed)
        if attention is None:
            return hidden
        hidden, probs = _transformer(attention, hidden, text_embeds, with_map=level in found, run=run)
        if probs is not None and level is not None:
            found[level].append(probs.detach() if detach_maps else probs)
        return hidden

    time_embed = _time_embedding(unet, timestep, latents)
    hidden = unet.conv_in(latents)
    skips = [hidden]
    for level, block in enumerate(unet.down_blocks):
        for resnet, attention in _layers(block):
            hidden = layer(hidden, resnet, attention, level)
            skips.append(hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
            skips.append(hidden)

    mid = unet.mid_block
    hidden = run(mid.resnets[0], hidden, time_embed)
    for attention, resnet in zip(mid.attentions, mid.resnets[1:], strict=True):
        hidden, _ = _transformer(attention, hidden, text_embeds, with_map=False, run=run)
        hidden = run(resnet, hidden, time_embed)

    taps = []
    for index, block in enumerate(unet.up_blocks):
        level = len(unet.up_blocks) - 1 - index
        tap = len(block.resnets) - 1 if level == 0 else 1
        for position, (resnet, attention) in enumerate(_layers(block)):
            hidden = layer(torch.cat([hidden, skips.pop()], dim=1), resnet, attention, level)
            if position == tap:
                taps.append(hidden)
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden, skips[-1].shape[-2:])  # the skip's size: halving may have rounded up

    maps = {level: torch.stack(probs).mean(dim=0) for level, probs in found.items()}
    return tuple(reversed(taps)), maps


def _time_embedding(unet: UNet2DConditionModel, timestep: int, latents: Tensor) -> Tensor:
    """`(b, time)` embedding of a constant timestep; the sinusoid itself is float32, as in diffusers and LDM."""
    steps = torch.full((latents.shape[0],), timestep, device=latents.device)
    return unet.time_embedding(unet.time_proj(steps).to(latents.dtype))


def _layers(block: Layer) -> list[tuple[Layer, Layer | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _direct(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs)


def _checkpointed(function: Callable[..., Any], *inputs: Any) -> Any:
    return checkpoint(function, *inputs, use_reentrant=False)


def _transformer(
    transformer: Layer, hidden: Tensor, text_embeds: Tensor, *, with_map: bool, run: Callable[..., Any]
) -> tuple[Tensor, Tensor | None]:
    """A spatial transformer: `(b, c, h, w)` -> the same, and its cross-attention `(b, k, h, w)` if wanted."""
    height, width = hidden.shape[-2:]
    residual = hidden
    hidden = transformer.norm(hidden)
    if transformer.use_linear_projection:
        tokens = transformer.proj_in(rearrange(hidden, "b c h w -> b (h w) c"))
    else:
        tokens = rearrange(transformer.proj_in(hidden), "b c h w -> b (h w) c")
    found = []
    for block in transformer.transformer_blocks:
        tokens, probs = run(_transformer_block, block, tokens, text_embeds, with_map)
        found.append(probs)
    if transformer.use_linear_projection:
        hidden = rearrange(transformer.proj_out(tokens), "b (h w) c -> b c h w", h=height)
    else:
        hidden = transformer.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))
    if not with_map:
        return hidden + residual, None
    probs = torch.stack(found).mean(dim=0) if len(found) > 1 else found[0]
    return hidden + residual, rearrange(probs, "b (h w) k -> b k h w", h=height, w=width)


def _transformer_block(
    block: Layer, tokens: Tensor, text_embeds: Tensor, with_map: bool
) -> tuple[Tensor, Tensor | None]:
    """Self-attention, cross-attention, feed-forward; the cross-attention `(b, h*w, k)` if wanted."""
    normed = block.norm1(tokens)
    tokens = tokens + _attend(block.attn1, normed, normed, with_map=False)[0]
    attended, probs = _attend(block.attn2, block.norm2(tokens), text_embeds, with_map=with_map)
    tokens = tokens + attended
    return tokens + block.ff(block.norm3(tokens)), probs


def _attend(attn: Layer, tokens: Tensor, context: Tensor, *, with_map: bool) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention; explicit probabilities, averaged over heads, only where they are wanted."""
    query, key, value = (
        rearrange(projected, "b n (heads d) -> b heads n d", heads=attn.heads)
        for projected in (attn.to_q(tokens), attn.to_k(context), attn.to_v(context))
    )
    if attn.upcast_attention:  # Stable Diffusion 2.1 overflows in half precision
        query, key = query.float(), key.float()
    mean_probs = None
    if with_map:
        probs = (query * attn.scale @ key.mT).softmax(dim=-1).to(value.dtype)  # (b, heads, h*w, k)
        mean_probs = probs.mean(dim=1)
        attended = probs @ value
    else:
        attended = F.scaled_dot_product_attention(query, key, value.to(query.dtype)).to(value.dtype)
    merged = rearrange(attended, "b heads n d -> b n (heads d)")
    return attn.to_out[1](attn.to_out[0](merged)), mean_probs
