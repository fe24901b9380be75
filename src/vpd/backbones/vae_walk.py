"""One pass through the encoder of diffusers' autoencoder that makes no more than the mode of the latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D
from einops import rearrange
from torch import Tensor, nn

from vpd.backbones.group_norm import Sum, added, group_norm, has_kernel, sum_and_norm
from vpd.backbones.unet_layers import Layer, convolve, residual_block


@torch.no_grad()
def encode_mode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Mode of the posterior, `(b, 4, h, w)`, without the factor of the latents; no gradient.

    Bit-equal to `vae.encode(images).latent_dist.mode()` of images `(b, 3, H, W)` in [-1, 1], sides multiples of the
    latent stride; but residual blocks take fewer passes over memory, and the variances are left out.
    """
    encoder = vae.encoder
    maps, shift = convolve(encoder.conv_in, images)
    hidden = Sum(maps, None, shift)
    del maps
    for block in (*encoder.down_blocks, encoder.mid_block):
        if type(block) is DownEncoderBlock2D:
            for resnet in block.resnets:
                hidden = residual_block(resnet, hidden, None)
            for downsampler in block.downsamplers or ():
                hidden = Sum(downsampler(added(hidden)))
        elif type(block) is UNetMidBlock2D:
            hidden = residual_block(block.resnets[0], hidden, None)
            for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
                hidden = hidden if attention is None else _attend(attention, hidden)
                hidden = residual_block(resnet, hidden, None)
        else:
            hidden = Sum(block(added(hidden)))
    is_plain = isinstance(encoder.conv_act, nn.SiLU)
    _, maps = sum_and_norm(encoder.conv_norm_out, hidden, silu=is_plain)
    maps = encoder.conv_out(maps if is_plain else encoder.conv_act(maps))
    means = vae.config.latent_channels
    if vae.quant_conv is None:
        return maps[:, :means]
    return F.conv2d(maps, vae.quant_conv.weight[:means], vae.quant_conv.bias[:means])


def _attend(attention: Layer, hidden: Sum) -> Sum:
    """`attention(maps)`, `(b, c, h, w)`; where a kernel keeps the order of memory, without a copy of the maps."""
    maps = added(hidden)
    if not has_kernel(maps):
        return Sum(attention(maps))
    tokens = rearrange(group_norm(attention.group_norm, maps), "b c h w -> b (h w) c")
    query, key, value = (
        rearrange(layer(tokens), "b n (heads d) -> b heads n d", heads=attention.heads)
        for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    attended = rearrange(F.scaled_dot_product_attention(query, key, value), "b heads n d -> b n (heads d)")
    return Sum(rearrange(attention.to_out[0](attended), "b (h w) c -> b c h w", h=maps.shape[2]), maps)


def scale_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents as the VAE makes them -> as the UNet was pre-trained with them."""
    return (latents - _shift(vae)) * vae.config.scaling_factor


def unscale_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The inverse of `scale_latents`."""
    return latents / vae.config.scaling_factor + _shift(vae)


def latent_stride(vae: AutoencoderKL) -> int:
    """Image pixels to one latent: 8 in Stable Diffusion."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _shift(vae: AutoencoderKL) -> float:
    return vae.config.get("shift_factor") or 0.0
