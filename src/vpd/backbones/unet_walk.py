"""One pass through diffusers' UNet that keeps decoder features and cross-attention maps.

The only file that knows how diffusers' `UNet2DConditionModel` is built; `unet_layers.py` beside it knows the inside of
its layers. It calls the UNet's own layers, so weights, LoRA layers and precision are whatever the caller put there;
nothing is patched and no layer keeps anything after the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpd.backbones.costly_kept import CostlyKept
from vpd.backbones.group_norm import added
from vpd.backbones.recomputed import function_modes, within
from vpd.backbones.unet_layers import Layer, PackedGEGLU, read_layer_text, residual_block, spatial_transformer
from vpd.config import Checkpointing
from vpd.tensors import LayerText, Text


def strip_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Drop the layers after the last feature, which only denoising needs."""
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
    return unet


def attention_levels(config: dict[str, Any]) -> tuple[int, ...]:
    """Resolution levels (0 = finest) whose cross-attention maps are handed out: all that have any but level 0.

    At 512 px these are the maps of 32x32 and 16x16; the finest is left out as in the reference.
    """
    kinds = config["down_block_types"]
    return tuple(level for level, kind in enumerate(kinds) if level and kind == "CrossAttnDownBlock2D")


def walk_unet(
    unet: UNet2DConditionModel,
    latents: Tensor,
    *,
    timestep: int,
    text_embeds: Text,
    gradient_checkpointing: Checkpointing = False,
    detach_maps: bool = False,
    merge_above: int | None = None,
    blocks: Callable[..., Any] | None = None,
) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
    """Decoder features and cross-attention maps of one denoising step, without the denoising.

    Args:
        unet: A UNet that `check_unet` accepts.
        latents: `(b, 4, h, w)`, any size.
        timestep: 0 to 999, the same for all images.
        text_embeds: `(b, k, d)` context, `(1, k, d)` if it is the same for all images; or what `read_text` made of it.
        gradient_checkpointing: Recompute blocks in the backward pass, or what is `cheap`; the maps come out once.
        detach_maps: Cut the maps from the graph.
        merge_above: Self-attention over more positions merges keys and values of 2x2 neighbours; none = never.
        blocks: Calls a block's function with its inputs, as by compiled code; none = plainly.

    Returns:
        Features, finest first: the output of the second layer of each up block, before the block's
        upsampling, and of the last layer of the last block (LDM output blocks 11, 7, 4, 1); and level ->
        `(b, k, h, w)` attention averaged over heads and over all layers of the level's down and up blocks.
    """
    is_compiled = blocks is not None or torch.compiler.is_compiling()
    run = _runner(gradient_checkpointing if torch.is_grad_enabled() else False, is_compiled=is_compiled)
    run = run if blocks is None else partial(run, blocks)
    found: dict[int, list[Tensor]] = {level: [] for level in attention_levels(unet.config)}
    texts: Iterator[Tensor | LayerText] = repeat(text_embeds) if isinstance(text_embeds, Tensor) else iter(text_embeds)

    def layer(hidden: Tensor, resnet: Layer, attention: Layer | None, level: int) -> Tensor:
        total = run(residual_block, resnet, hidden, time_embed)
        if attention is None:
            return added(total)
        hidden, probs = spatial_transformer(
            attention, total, texts, with_map=level in found, merge_above=merge_above, run=run
        )
        if probs is not None:
            found[level].append(probs.detach() if detach_maps else probs)
        return hidden

    time_embed = time_embedding(unet, timestep, latents)
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
    total = run(residual_block, mid.resnets[0], hidden, time_embed)
    for attention, resnet in zip(mid.attentions, mid.resnets[1:], strict=True):
        hidden, _ = spatial_transformer(attention, total, texts, with_map=False, merge_above=merge_above, run=run)
        total = run(residual_block, resnet, hidden, time_embed)
    hidden = added(total)

    taps = []
    for index, block in enumerate(unet.up_blocks):
        level = len(unet.up_blocks) - 1 - index
        tap = 1 if level else len(block.resnets) - 1
        for position, (resnet, attention) in enumerate(_layers(block)):
            hidden = layer(torch.cat([hidden, skips.pop()], dim=1), resnet, attention, level)
            if position == tap:
                taps.append(hidden)
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden, skips[-1].shape[-2:])  # the skip's size: halving may have rounded up

    return tuple(reversed(taps)), {level: _mean_map(probs, unet.conv_in.weight) for level, probs in found.items()}


def _mean_map(probs: list[Tensor], weight: Tensor) -> Tensor:
    """Mean of maps `(b, k, h, w)`, which lie in the order of tokens, in the order that a weight gives to features."""
    if weight.is_contiguous():
        return torch.stack(probs).mean(dim=0)
    return torch.stack([part.permute(0, 2, 3, 1) for part in probs]).mean(dim=0).permute(0, 3, 1, 2)


@torch.no_grad()
def pack_feed_forward(unet: UNet2DConditionModel) -> None:
    """Let the gated layers of all transformers, in bfloat16 on a CPU, make gate and product as they multiply."""
    for module in unet.modules():
        if isinstance(module, FeedForward) and isinstance(module.net[0], GEGLU):
            module.net[0] = PackedGEGLU(module.net[0])


def read_text(unet: UNet2DConditionModel, text_embeds: Tensor) -> tuple[LayerText, ...]:
    """What each cross-attention layer makes of a text `(1 or b, k, d)`, in the order of the walk."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    transformers = [layer for block in blocks for layer in getattr(block, "attentions", None) or ()]
    layers = [block.attn2 for transformer in transformers for block in transformer.transformer_blocks]
    return tuple(read_layer_text(layer, text_embeds) for layer in layers)


@torch.no_grad()
def fold_timestep(unet: UNet2DConditionModel, timestep: int) -> None:
    """Add what a constant timestep gives to each residual block to the bias of its first convolution.

    Equal but for rounding: 1e-6 of the features in float32. Changes layers of the UNet, not the tensors they had; it
    can be walked for this timestep alone afterwards.
    """
    resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    embed = time_embedding(unet, timestep, unet.conv_in.weight[:1])
    if embed is None or any(resnet.time_embedding_norm != "default" for resnet in resnets):
        return
    for resnet in resnets:
        shift = resnet.time_emb_proj(resnet.nonlinearity(embed))[0]
        resnet.conv1.bias = nn.Parameter(resnet.conv1.bias + shift, requires_grad=False)
        resnet.time_emb_proj = None
    unet.time_embedding = None


def time_embedding(unet: UNet2DConditionModel, timestep: int, latents: Tensor) -> Tensor | None:
    """`(b, time)` embedding of a constant timestep, or none if it is folded into the UNet's biases.

    The sinusoid itself is float32, as in diffusers and LDM.
    """
    if unet.time_embedding is None:
        return None
    steps = torch.full((latents.shape[0],), timestep, device=latents.device)
    return unet.time_embedding(unet.time_proj(steps).to(latents.dtype))


def _layers(block: Layer) -> list[tuple[Layer, Layer | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _runner(gradient_checkpointing: Checkpointing, *, is_compiled: bool) -> Callable[..., Any]:
    if gradient_checkpointing == "cheap":  # which a compiler finds by itself
        return _direct if is_compiled else _cheaply_checkpointed
    return _checkpointed if gradient_checkpointing else _direct


def _direct(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs)


def _checkpointed(function: Callable[..., Any], *inputs: Any) -> Any:
    if not (modes := function_modes()):
        return checkpoint(function, *inputs, use_reentrant=False)
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), within(modes)))


def _cheaply_checkpointed(function: Callable[..., Any], *inputs: Any) -> Any:
    kept, modes = CostlyKept(), function_modes()
    contexts = kept, within((*modes, kept)) if modes else kept
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=lambda: contexts)
