"""A complete Stable Diffusion folder in miniature: a trained VAE, the rest seeded random weights of the same form."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.autoencoder import load_autoencoder, save_autoencoder
from vpd.demo.samples import noise_schedule
from vpd.errors import UsageError
from vpd.files.atomic import write_json
from vpd.prompts.tokenizer import VOCABULARY_SIZE, clip_tokenizer

NORM_GROUPS = 8
TOKEN_LENGTH = 77
START_TOKEN, END_TOKEN = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1


def write_diffusion_folder(
    folder: str | Path,
    *,
    vae: AutoencoderKL | str | Path | None = None,
    unet_channels: tuple[int, int, int, int] = (32, 64, 128, 128),
    layers_per_block: int = 2,
    text_dim: int = 64,
    text_layers: int = 2,
    heads: int = 4,
    seed: int = 0,
) -> Path:
    """Write a folder that loads as Stable Diffusion does: `vae`, `unet`, `text_encoder`, `tokenizer`, `scheduler`.

    UNet and text encoder are random: a place to start training from, not a model that knows anything. The
    tokenizer is CLIP's own.

    Args:
        folder: Folder to write into; made if missing.
        vae: The autoencoder, or its folder; by default the one that comes with the package.
        unet_channels: Width of the UNet's four levels, finest first, multiples of 8.
        layers_per_block: Layers of each of the UNet's blocks.
        text_dim: Width of the text embeddings.
        text_layers: Layers of the text encoder.
        heads: Attention heads, in the UNet and in the text encoder.
        seed: Of the random weights.

    Returns:
        The folder.

    Raises:
        UsageError: If a width is not a multiple of 8 and of the heads, or the UNet has not four levels.
    """
    autoencoder = vae if isinstance(vae, AutoencoderKL) else load_autoencoder(vae)
    unet, text_encoder = build_networks(
        unet_channels=unet_channels,
        layers_per_block=layers_per_block,
        text_dim=text_dim,
        text_layers=text_layers,
        heads=heads,
        latent_channels=int(autoencoder.config["latent_channels"]),
        seed=seed,
    )
    return save_diffusion_folder(folder, vae=autoencoder, unet=unet, text_encoder=text_encoder)


def build_networks(
    *,
    unet_channels: tuple[int, int, int, int],
    layers_per_block: int,
    text_dim: int,
    text_layers: int,
    heads: int,
    latent_channels: int,
    seed: int,
    unet_heads: tuple[int, int, int, int] | None = None,
    latent_side: int = 32,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """A random UNet of Stable Diffusion 1's topology and a random CLIP text encoder.

    Args:
        unet_channels: Width of the UNet's four levels, finest first, multiples of 8.
        layers_per_block: Layers of each of the UNet's blocks.
        text_dim: Width of the text embeddings.
        text_layers: Layers of the text encoder.
        heads: Attention heads, in the UNet and in the text encoder.
        latent_channels: Of the autoencoder.
        seed: Of the random weights.
        unet_heads: Attention heads of each level of the UNet; none = `heads` in all.
        latent_side: Side of the latents that it will be trained on, for the record.

    Raises:
        UsageError: If a width is not a multiple of 8 and of the heads, or the UNet has not four levels.
    """
    widths = [*zip(unet_channels, unet_heads or (heads,) * 4, strict=False), (text_dim, heads)]
    if len(unet_channels) != 4 or any(width % NORM_GROUPS or width % count for width, count in widths):
        raise UsageError(
            f"unet_channels={unet_channels} and text_dim={text_dim} with {heads} heads: give four UNet widths, and "
            f"every width a multiple of {NORM_GROUPS} and of the heads."
        )
    config = _unet_config(unet_channels, layers_per_block, text_dim, unet_heads or heads, latent_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**{**config, "sample_size": latent_side})
        text_encoder = CLIPTextModel(_text_config(text_dim, text_layers, heads))
    return unet, text_encoder


def save_diffusion_folder(
    folder: str | Path,
    *,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the parts in diffusers' layout; `model_index.json` comes last, so a folder that has one is complete.

    Args:
        folder: Folder to write into; made if missing.
        vae: Autoencoder, stored in float16.
        unet: UNet.
        text_encoder: Text encoder.
        dtype: Type of the stored numbers of UNet and text encoder.
    """
    folder = Path(folder)
    save_autoencoder(vae, folder / "vae")
    for part, name in ((unet, "unet"), (text_encoder, "text_encoder")):
        copy = part if dtype == torch.float32 else deepcopy(part).to(dtype)
        copy.save_pretrained(folder / name)
    _tokenizer().save_pretrained(folder / "tokenizer")
    noise_schedule().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _model_index())
    return folder


def _unet_config(
    channels: tuple[int, ...], layers_per_block: int, text_dim: int, heads: int | tuple[int, ...], latent_channels: int
) -> dict[str, Any]:
    """Stable Diffusion 1's topology, with other widths."""
    return {
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": channels,
        "layers_per_block": layers_per_block,
        "cross_attention_dim": text_dim,
        "attention_head_dim": heads,  # the number of heads, in spite of its name
        "norm_num_groups": NORM_GROUPS,
    }


def _text_config(dim: int, layers: int, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=dim,
        max_position_embeddings=TOKEN_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=START_TOKEN,
        eos_token_id=END_TOKEN,
        pad_token_id=END_TOKEN,
    )


def _tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, with the length that its text encoder takes."""
    tokenizer = deepcopy(clip_tokenizer())
    tokenizer.model_max_length = TOKEN_LENGTH
    return tokenizer


def _model_index() -> dict[str, Any]:
    """What diffusers' pipeline reads first; the absent parts are optional there."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers_version,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
