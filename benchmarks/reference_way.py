"""How the reference computes features, restated for the benchmark: every attention matrix, NCHW, nothing in place.

Written from what is known of its cost, for time and memory alone: autoencoder with `x * sigmoid(x)` and explicit
attention, the whole posterior; UNet with the time embedding at each block, every transformer block through activation
checkpointing, every attention matrix made with a pass of its own for the scale, and the maps of self- and
cross-attention of all layers up to a sixteenth of the image kept until the end. Features equal ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Maps = list[tuple[bool, Tensor]]
"""Whether it is cross-attention, and its mean over heads `(b, h*w, k)`."""


def encode(vae: Any, images: Tensor) -> Tensor:
    """Mode of the latents, unscaled."""
    encoder = vae.encoder
    hidden = encoder.conv_in(images)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            hidden = _vae_resnet(resnet, hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler.conv(F.pad(hidden, (0, 1, 0, 1)))
    hidden = _vae_resnet(encoder.mid_block.resnets[0], hidden)
    hidden = _vae_attention(encoder.mid_block.attentions[0], hidden)
    hidden = _vae_resnet(encoder.mid_block.resnets[1], hidden)
    moments = vae.quant_conv(encoder.conv_out(_swish(encoder.conv_norm_out(hidden))))
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(-30.0, 20.0)
    _ = (0.5 * log_variance).exp(), log_variance.exp()
    return mean


def features(unet: Any, latents: Tensor, text: Tensor, *, timestep: int) -> tuple[list[Tensor], list[Tensor]]:
    """The four features, finest first, and the cross-attention maps of two levels, finer first."""
    steps = torch.full((len(latents),), timestep)
    time = unet.time_embedding(unet.time_proj(steps).to(latents.dtype))
    limit = latents.shape[-2] * latents.shape[-1] // 4
    store: Maps = []
    hidden = unet.conv_in(latents)
    skips = [hidden]
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            hidden = _unet_resnet(resnet, hidden, time)
            if hasattr(block, "attentions"):
                hidden = _transformer(block.attentions[index], hidden, text, store, limit)
            skips.append(hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
            skips.append(hidden)
    hidden = _unet_resnet(unet.mid_block.resnets[0], hidden, time)
    hidden = _transformer(unet.mid_block.attentions[0], hidden, text, store, 0)
    hidden = _unet_resnet(unet.mid_block.resnets[1], hidden, time)
    taps = []
    for level, block in zip((3, 2, 1, 0), unet.up_blocks, strict=True):
        for index, resnet in enumerate(block.resnets):
            hidden = _unet_resnet(resnet, torch.cat([hidden, skips.pop()], dim=1), time)
            if hasattr(block, "attentions"):
                hidden = _transformer(block.attentions[index], hidden, text, store, limit)
            if index == (1 if level else 2):
                taps.append(hidden)
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden)
    maps = []
    for size in (latents.shape[-1] // 2, latents.shape[-1] // 4):
        cross = [attended for is_cross, attended in store if is_cross and attended.shape[1] == size**2]
        maps.append(torch.stack(cross).mean(dim=0).transpose(1, 2).unflatten(-1, (size, size)))
    return taps[::-1], maps


def _swish(hidden: Tensor) -> Tensor:
    return hidden * torch.sigmoid(hidden)


def _vae_resnet(resnet: Any, hidden: Tensor) -> Tensor:
    inner = resnet.conv1(_swish(resnet.norm1(hidden)))
    inner = resnet.conv2(resnet.dropout(_swish(resnet.norm2(inner))))
    return (hidden if resnet.conv_shortcut is None else resnet.conv_shortcut(hidden)) + inner


def _vae_attention(attn: Any, hidden: Tensor) -> Tensor:
    b, c, h, w = hidden.shape
    tokens = attn.group_norm(hidden).flatten(2).transpose(1, 2)
    query, key, value = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
    probs = (torch.bmm(query, key.transpose(1, 2)) * c**-0.5).softmax(dim=2)
    attended = attn.to_out[0](torch.bmm(probs, value))
    return hidden + attended.transpose(1, 2).reshape(b, c, h, w)


def _unet_resnet(resnet: Any, hidden: Tensor, time: Tensor) -> Tensor:
    inner = resnet.conv1(F.silu(resnet.norm1(hidden)))
    inner = inner + resnet.time_emb_proj(F.silu(time))[:, :, None, None]
    inner = resnet.conv2(resnet.dropout(F.silu(resnet.norm2(inner))))
    return (hidden if resnet.conv_shortcut is None else resnet.conv_shortcut(hidden)) + inner


def _transformer(transformer: Any, hidden: Tensor, text: Tensor, store: Maps, limit: int) -> Tensor:
    b, c, h, w = hidden.shape
    tokens = transformer.proj_in(transformer.norm(hidden)).flatten(2).transpose(1, 2).contiguous()
    for block in transformer.transformer_blocks:
        tokens = checkpoint(_block, block, tokens, text, store, limit, use_reentrant=True)
    return transformer.proj_out(tokens.transpose(1, 2).reshape(b, c, h, w).contiguous()) + hidden


def _block(block: Any, tokens: Tensor, text: Tensor, store: Maps, limit: int) -> Tensor:
    normed = block.norm1(tokens)
    tokens = _attention(block.attn1, normed, normed, False, store, limit) + tokens
    tokens = _attention(block.attn2, block.norm2(tokens), text, True, store, limit) + tokens
    return block.ff(block.norm3(tokens)) + tokens


def _attention(attn: Any, tokens: Tensor, context: Tensor, is_cross: bool, store: Maps, limit: int) -> Tensor:
    query, key, value = (
        part.unflatten(-1, (attn.heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()
        for part in (attn.to_q(tokens), attn.to_k(context), attn.to_v(context))
    )
    scores = torch.einsum("bid,bjd->bij", query, key) * attn.scale
    probs = scores.softmax(dim=-1)
    if tokens.shape[1] <= limit:
        store.append((is_cross, probs.unflatten(0, (-1, attn.heads)).mean(dim=1)))
    attended = torch.einsum("bij,bjd->bid", probs, value)
    attended = attended.unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
    return attn.to_out[1](attn.to_out[0](attended))
