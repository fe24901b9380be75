"""A VAE that takes every eighth pixel times a matrix, and a small encoder that does exactly the same."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from tiny import tiny_vae
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig

WIDTH = 8


def tap(matrix: Tensor, row: int, column: int) -> Tensor:
    """A 3x3 kernel that has a matrix `(out, in)` at one place and zeros elsewhere."""
    kernel = torch.zeros(*matrix.shape, 3, 3)
    kernel[:, :, row, column] = matrix
    return kernel


@torch.no_grad()
def linear_vae(**config: Any) -> AutoencoderKL:
    """Stride 8, four channels; without norm and activation at its end."""
    vae = tiny_vae(block_out_channels=(WIDTH,) * 4, mid_block_add_attention=False, **config)
    encoder = vae.encoder
    for block in (*encoder.down_blocks, encoder.mid_block):
        for resnet in block.resnets:
            resnet.conv2.weight.zero_(), resnet.conv2.bias.zero_()
        for downsampler in getattr(block, "downsamplers", None) or ():
            downsampler.conv.weight.copy_(tap(torch.eye(WIDTH), 0, 0)), downsampler.conv.bias.zero_()
    encoder.conv_norm_out = encoder.conv_act = nn.Identity()
    matrix = torch.randn(8, WIDTH, generator=torch.manual_seed(0))
    matrix[:, 3:] = 0
    encoder.conv_in.weight.copy_(tap(torch.eye(WIDTH, 3), 1, 1)), encoder.conv_in.bias.zero_()
    encoder.conv_out.weight.copy_(tap(matrix, 1, 1)), encoder.conv_out.bias.copy_(torch.linspace(-1, 1, 8))
    vae.quant_conv.weight.copy_(torch.eye(8)[:, :, None, None]), vae.quant_conv.bias.zero_()
    return vae.eval()


@torch.no_grad()
def exact_encoder(vae: AutoencoderKL) -> TinyEncoder:
    """What makes the latents of a `linear_vae` times its factor."""
    config = TinyEncoderConfig(encoder_block_out_channels=(WIDTH,) * 4, num_encoder_blocks=(1,) * 4)
    encoder = TinyEncoder(config).eval().requires_grad_(False)
    first, *layers, last = encoder.encoder.layers
    first.weight.copy_(tap(torch.eye(WIDTH, 3), 1, 1)), first.bias.zero_()
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.weight.copy_(tap(torch.eye(WIDTH), 1, 1))
        else:
            layer.conv[-1].weight.zero_(), layer.conv[-1].bias.zero_()
    factor, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    matrix, bias = vae.encoder.conv_out.weight[:4, :, 1, 1], vae.encoder.conv_out.bias[:4]
    last.weight.copy_(tap(2 * factor * matrix, 1, 1))  # its pictures are in [0, 1]
    last.bias.copy_(factor * (bias - matrix.sum(dim=1) - shift))
    return encoder
