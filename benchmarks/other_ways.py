"""How others compute the features, for the benchmark: the reference's way restated, and plain diffusers with hooks.

The only file of the benchmark that knows diffusers. Both give what `StableDiffusionBackbone` gives.

The reference's way is written from what is known of its cost: every attention matrix is made, with a pass of its own
for the scale; NCHW, nothing in place; autoencoder with `x * sigmoid(x)` and the whole posterior; UNet with the time
embedding at each block, every residual and transformer block through activation checkpointing, and the maps of self-
and cross-attention of all layers up to a sixteenth of the image kept until the end.

Plain diffusers is what one writes today: its own forward of UNet and autoencoder, forward hooks that collect features,
and an attention processor that collects probabilities of the layers whose maps are wanted; the others use its default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vpd.backbones.unet_walk import attention_levels

Maps = list[tuple[bool, Tensor]]
"""Whether it is cross-attention, and its mean over heads `(b, h*w, k)`."""
Found = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Features, finest first, and cross-attention maps `(b, k, h, w)`, finer first."""


def reference_encode(vae: Any, images: Tensor) -> Tensor:
    """Mode of the latents, unscaled."""
    encoder = vae.encoder
    hidden = encoder.conv_in(images)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            hidden = _vae_resnet(resnet, hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler.conv(F.pad(hidden, (0, 1, 0, 1)))
    hidden = _vae_resnet(encoder.mid_block.resnets[0], hidden)
    if encoder.mid_block.attentions[0] is not None:
        hidden = _vae_attention(encoder.mid_block.attentions[0], hidden)
    hidden = _vae_resnet(encoder.mid_block.resnets[1], hidden)
    moments = encoder.conv_out(_swish(encoder.conv_norm_out(hidden)))
    mean, log_variance = (moments if vae.quant_conv is None else vae.quant_conv(moments)).chunk(2, dim=1)
    log_variance = log_variance.clamp(-30.0, 20.0)
    _ = (0.5 * log_variance).exp(), log_variance.exp()
    return mean


def reference_features(unet: Any, latents: Tensor, text: Tensor, *, timestep: int) -> Found:
    """Features and maps from latents `(b, 4, h, w)` and text embeddings `(b, k, d)`."""
    steps = torch.full((len(latents),), timestep, device=latents.device)
    time = unet.time_embedding(unet.time_proj(steps).to(latents.dtype))
    height, width = latents.shape[-2:]
    limit = height * width // 4
    store: Maps = []
    hidden = unet.conv_in(latents)
    skips = [hidden]
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            hidden = _checkpointed(_unet_resnet, resnet, hidden, time)
            if hasattr(block, "attentions"):
                hidden = _transformer(block.attentions[index], hidden, text, store, limit)
            skips.append(hidden)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
            skips.append(hidden)
    hidden = _checkpointed(_unet_resnet, unet.mid_block.resnets[0], hidden, time)
    hidden = _transformer(unet.mid_block.attentions[0], hidden, text, store, 0)
    hidden = _checkpointed(_unet_resnet, unet.mid_block.resnets[1], hidden, time)
    taps = []
    for level, block in reversed(list(enumerate(reversed(unet.up_blocks)))):
        for index, resnet in enumerate(block.resnets):
            hidden = _checkpointed(_unet_resnet, resnet, torch.cat([hidden, skips.pop()], dim=1), time)
            if hasattr(block, "attentions"):
                hidden = _transformer(block.attentions[index], hidden, text, store, limit)
            if index == (1 if level else len(block.resnets) - 1):
                taps.append(hidden)
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden)
    maps = []
    for h, w in ((height // 2**level, width // 2**level) for level in attention_levels(unet.config)):
        cross = [attended for is_cross, attended in store if is_cross and attended.shape[1] == h * w]
        maps.append(torch.stack(cross).mean(dim=0).transpose(1, 2).unflatten(-1, (h, w)))
    return tuple(taps[::-1]), tuple(maps)


def _checkpointed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Run without a graph, and again in the backward pass; maps that are stored on the way have no gradient."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=True)
    return result


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
    normed = transformer.norm(hidden)
    if transformer.use_linear_projection:
        tokens = transformer.proj_in(normed.flatten(2).transpose(1, 2).contiguous())
    else:
        tokens = transformer.proj_in(normed).flatten(2).transpose(1, 2).contiguous()
    for block in transformer.transformer_blocks:
        tokens = _checkpointed(_block, block, tokens, text, store, limit)
    if transformer.use_linear_projection:
        return transformer.proj_out(tokens).transpose(1, 2).reshape(b, c, h, w).contiguous() + hidden
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


def diffusers_encode(vae: Any, images: Tensor) -> Tensor:
    """Mode of the latents, unscaled, by the autoencoder's own forward."""
    return vae.encode(images).latent_dist.mode()


class HookedUNet:
    """diffusers' UNet with hooks that collect what its forward does not hand out.

    Args:
        unet: Whose weights it uses; it stays as it is. Layers that ours has dropped are made anew.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        with torch.device("meta"):
            self.unet = UNet2DConditionModel.from_config(dict(unet.config)).eval().requires_grad_(False)
        dropped = [self.unet.conv_norm_out, self.unet.conv_out]
        self.unet.load_state_dict(unet.state_dict(), strict=False, assign=True)
        for layer in dropped:  # what comes of them is thrown away
            layer.to(dtype=unet.dtype).to_empty(device=unet.device)
        self.taps: list[Tensor] = []
        self.probs: dict[int, list[Tensor]] = {level: [] for level in attention_levels(unet.config)}
        levels = len(self.unet.up_blocks)
        for index, up_block in enumerate(self.unet.up_blocks):
            layers = getattr(up_block, "attentions", None) or up_block.resnets
            layers[1 if index < levels - 1 else len(layers) - 1].register_forward_hook(self._keep)
        for level, collected in self.probs.items():
            for block in (self.unet.down_blocks[level], self.unet.up_blocks[levels - 1 - level]):
                for transformer in block.attentions:
                    for layer in transformer.transformer_blocks:
                        layer.attn2.set_processor(_CollectingProcessor(collected))

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self.taps.append(output if isinstance(output, Tensor) else output[0])

    def features(self, latents: Tensor, text: Tensor, *, timestep: int) -> Found:
        """As `reference_features`."""
        for collected in (self.taps, *self.probs.values()):
            collected.clear()
        self.unet(latents, timestep, encoder_hidden_states=text, return_dict=False)
        height, width = latents.shape[-2:]
        maps = tuple(
            torch.stack(probs).mean(dim=0).transpose(1, 2).unflatten(-1, (height // 2**level, width // 2**level))
            for level, probs in self.probs.items()
        )
        taps = tuple(reversed(self.taps))
        for collected in (self.taps, *self.probs.values()):
            collected.clear()
        return taps, maps


class _CollectingProcessor:
    """diffusers' plain attention that appends its probabilities, averaged over heads, to a list."""

    def __init__(self, collected: list[Tensor]) -> None:
        self.collected = collected

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Any = None
    ) -> Tensor:
        query, key, value = (
            attn.head_to_batch_dim(part)
            for part in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        probs = attn.get_attention_scores(query, key, attention_mask)
        self.collected.append(probs.unflatten(0, (-1, attn.heads)).mean(dim=1))
        attended = attn.batch_to_head_dim(torch.bmm(probs, value))
        return attn.to_out[1](attn.to_out[0](attended))
