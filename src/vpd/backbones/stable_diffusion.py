"""Stable Diffusion as a feature extractor: an image goes through VAE encoder and UNet once, nothing is denoised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from vpd.backbones.compiled import Compiled, CompiledBlocks
from vpd.backbones.lora import add_lora, merge_lora
from vpd.backbones.tiny_encoder import TinyEncoder
from vpd.backbones.unet_walk import attention_levels, read_text, strip_unet, walk_unet
from vpd.backbones.vae_walk import encode_mode, latent_stride, scale_latents, unscale_latents
from vpd.config import BackboneConfig, Checkpointing, LoraSettings, MapScale
from vpd.files.images import pad_to_multiple
from vpd.tensors import Features, LayerText, Text, check_text
from vpd.weights.families import check_unet
from vpd.weights.sources import load_unet_and_vae, recorded_source


class StableDiffusionBackbone(nn.Module):
    """Images and text embeddings -> UNet features and cross-attention maps.

    Knows nothing of tasks or vocabulary. The VAE encoder is frozen; the UNet trains.

    Args:
        unet: The denoising network; its layers after the last feature are dropped.
        vae: The image autoencoder; its decoder is dropped.
        timestep: Constant diffusion timestep, 0 to 999; 1 = almost no noise, as the reference uses.
        latent_scaling: `scaled` (times the VAE's factor) or `none` (as the published VPD checkpoints).
        detach_maps: Let no gradient flow through the attention maps.
        map_scale: How attention enters a head, `probability` (as published) or `log_ratio`; `Features` keep
            probabilities.
        gradient_checkpointing: Recompute the UNet's blocks in the backward pass, or of them what is `cheap`.
        source: Where the weights came from, for the record.
        lora: Low-rank layers to put on the UNet's attention, which then trains nothing else.

    Shape:
        images `(b, 3, H, W)` in [-1, 1], any H and W; text_embeds `(b, k, text_dim)`, or `(1, k, text_dim)` for all
        images -> `Features`. Map sizes are H and W divided by the stride, rounded up.

    Raises:
        UsageError: If the UNet is not of the Stable Diffusion 1.x / 2.x family, or needs more than latents; or if
            `lora` is given and PEFT is not installed.
    """

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        timestep: int = 1,
        latent_scaling: Literal["none", "scaled"] = "scaled",
        detach_maps: bool = False,
        map_scale: MapScale = "probability",
        gradient_checkpointing: Checkpointing = False,
        source: str = "",
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__()
        self.config = BackboneConfig(
            unet=_architecture(unet),
            vae=_architecture(vae),
            timestep=timestep,
            latent_scaling=latent_scaling,
            detach_maps=detach_maps,
            map_scale=map_scale,
            source=source,
        )
        check_unet(self.config.unet, self.config.vae)
        self.gradient_checkpointing = gradient_checkpointing
        self.unet = strip_unet(unet)
        self.vae = vae
        self.vae.decoder = self.vae.post_quant_conv = None
        self.vae.requires_grad_(False)
        self.small_encoder: TinyEncoder | None = None
        """What encodes in the VAE's place, in a backbone made by `vpd.optimise`."""
        self.merge_above: int | None = None
        """Positions above which self-attention merges keys and values, in one made by `vpd.optimise`; none = never."""
        self._compiled: tuple[Compiled, Compiled] | None = None  # of `_encode` and `walk_unet`
        self._blocks: CompiledBlocks | None = None
        if lora is not None:
            self.add_lora(lora)

    @classmethod
    def from_config(cls, config: BackboneConfig) -> StableDiffusionBackbone:
        """A backbone with random weights."""
        check_unet(config.unet, config.vae)
        options = config.model_dump(exclude={"unet", "vae", "lora"})
        unet, vae = UNet2DConditionModel.from_config(config.unet), AutoencoderKL.from_config(config.vae)
        return cls(unet=unet, vae=vae, lora=config.lora, **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> StableDiffusionBackbone:
        """The backbone of a Stable Diffusion 1.x or 2.x model, in float32.

        Args:
            source: A folder in diffusers layout, a hub id, or a single LDM file (`.safetensors`, `.ckpt`).
            options: Of the class, such as `latent_scaling`.

        Raises:
            UsageError: If the source cannot be found or is of another family.
        """
        unet, vae = load_unet_and_vae(source)
        return cls(unet=unet, vae=vae, source=recorded_source(source), **options)

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels to one step of each map, finest first."""
        return tuple(self.latent_stride * 2**level for level in range(len(self.channels)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, finest first; text and vocabulary do not enter here."""
        return tuple(self.unet.config.block_out_channels)

    @property
    def attention_strides(self) -> tuple[int, ...]:
        """Strides that have a cross-attention map."""
        return tuple(self.strides[level] for level in attention_levels(self.unet.config))

    @property
    def latent_stride(self) -> int:
        """Image pixels to one latent: 8 in Stable Diffusion."""
        return latent_stride(self.vae)

    @property
    def text_dim(self) -> int:
        """Width of the text embeddings the UNet was trained with: 768 in SD 1.x, 1024 in 2.x."""
        return int(self.unet.config.cross_attention_dim)

    def channels_with_attention(self, num_tokens: int) -> tuple[int, ...]:
        """Channels of `Features.with_attention()` for `num_tokens` tokens or class prompts."""
        return tuple(
            channels + num_tokens * (stride in self.attention_strides)
            for channels, stride in zip(self.channels, self.strides, strict=True)
        )

    def add_lora(self, settings: LoraSettings) -> None:
        """Put low-rank layers on the UNet's attention and freeze its other weights; outputs stay what they were.

        Raises:
            UsageError: If PEFT is not installed.
        """
        add_lora(self.unet, settings)
        self.config = self.config.model_copy(update={"lora": settings})

    def merge_lora(self) -> None:
        """Turn low-rank layers into plain weights; nothing where there are none."""
        if self.config.lora is not None:
            merge_lora(self.unet)
            self.config = self.config.model_copy(update={"lora": None})

    def use_small_encoder(self, encoder: TinyEncoder) -> None:
        """Let a small encoder take the VAE's place, which is dropped; latents keep their scale.

        Raises:
            UsageError: If it makes latents of another stride or other channels.
        """
        encoder.check_fit(latent_stride=self.latent_stride, latent_channels=self.vae.config.latent_channels)
        self.small_encoder = encoder
        self.vae.encoder = self.vae.quant_conv = None

    def compile_parts(self, **options: Any) -> None:
        """Let `torch.compile` make code for encoder and UNet, for `forward` and `encode`, at the first call of a shape.

        Args:
            options: Of `torch.compile`, such as `mode`.
        """
        self._compiled = Compiled(self._encode, **options), Compiled(walk_unet, **options)

    def compile_blocks(self, **options: Any) -> None:
        """Let `torch.compile` make code for the UNet's blocks, once for each kind, at the first call of a shape.

        Args:
            options: Of `torch.compile`, such as `mode`.
        """
        self._blocks = CompiledBlocks(**options)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Mode of the latent distribution, `(b, 4, H/8, W/8)`, for images in [-1, 1]; no gradient.

        Images whose sides are no multiple of the latent stride get zeros (mid-grey) at the right and bottom.
        """
        images, _ = pad_to_multiple(images, self.latent_stride)
        run: Callable[[Tensor], Tensor] = self._encode if self._compiled is None else self._compiled[0]
        return run(images)

    def _encode(self, images: Tensor) -> Tensor:
        is_scaled = self.config.latent_scaling == "scaled"
        if self.small_encoder is not None:
            latents = self.small_encoder(images)
            return latents if is_scaled else unscale_latents(self.vae, latents)
        latents = encode_mode(self.vae, images)
        return scale_latents(self.vae, latents) if is_scaled else latents

    def forward(self, images: Tensor | None, text_embeds: Text, *, latents: Tensor | None = None) -> Features:
        """One pass through VAE encoder and UNet, or through the UNet alone; see the class for shapes.

        Args:
            images: Not looked at where there are latents, and needless then.
            text_embeds: Embeddings, or what `read_text` made of them.
            latents: `(b, 4, h, w)`, as `encode` made them of the images before.

        Raises:
            ValueError: If there are neither images nor latents, or embeddings are of another width.
        """
        if isinstance(text_embeds, Tensor):
            check_text(text_embeds, self.text_dim)
        if latents is None:
            if images is None:
                raise ValueError("The backbone got neither images nor latents: give one of them.")
            latents = self.encode(images)
        maps, attention = (walk_unet if self._compiled is None else self._compiled[1])(
            self.unet,
            latents,
            timestep=self.config.timestep,
            text_embeds=text_embeds,
            gradient_checkpointing=self.gradient_checkpointing,
            detach_maps=self.config.detach_maps,
            merge_above=self.merge_above,
            blocks=self._blocks,
        )
        by_stride = {self.strides[level]: attended for level, attended in attention.items()}
        return Features(maps=maps, strides=self.strides, attention=by_stride)

    def read_text(self, text_embeds: Tensor) -> tuple[LayerText, ...]:
        """What the UNet makes of a text, to be given in its place as often as it comes again; `(b, k, d)`."""
        return read_text(self.unet, text_embeds)


def _architecture(model: UNet2DConditionModel | AutoencoderKL) -> dict[str, Any]:
    """The model's configuration without diffusers' own notes."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}
