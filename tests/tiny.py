"""Real but tiny Stable Diffusion models for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from vpd.prompts.tokenizer import clip_tokenizer

TEXT_DIM = 16
CLASSES = ("sky", "road", "tree")


def tiny_unet(**changes: Any) -> UNet2DConditionModel:
    options = {
        "block_out_channels": (16, 32, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": TEXT_DIM,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
    }
    return UNet2DConditionModel(**{**options, **changes})


def tiny_vae(**changes: Any) -> AutoencoderKL:
    options = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 64,
    }
    return AutoencoderKL(**{**options, **changes})


def tiny_text_model(dim: int = TEXT_DIM) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=dim,
            intermediate_size=2 * dim,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=dim,
            eos_token_id=49407,
            bos_token_id=49406,
            pad_token_id=49407,
        )
    )


def write_tiny_diffusion(folder: Path, *, seed: int = 0, **unet: Any) -> Path:
    """A complete Stable Diffusion folder in diffusers layout, about 4 MB."""
    torch.manual_seed(seed)
    tiny_unet(**unet).save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    tiny_text_model(unet.get("cross_attention_dim", TEXT_DIM)).save_pretrained(folder / "text_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder
