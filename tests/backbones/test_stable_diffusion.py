from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import TEXT_DIM, tiny_unet, tiny_vae, write_tiny_diffusion
from vpd import StableDiffusionBackbone, UsageError


@pytest.fixture(scope="module")
def backbone(tiny_diffusion: Path) -> StableDiffusionBackbone:
    return StableDiffusionBackbone.from_pretrained(tiny_diffusion).eval()


def test_it_states_its_shape(backbone: StableDiffusionBackbone) -> None:
    assert backbone.channels == (16, 32, 32, 32)
    assert backbone.strides == (8, 16, 32, 64)
    assert backbone.attention_strides == (16, 32)
    assert backbone.channels_with_attention(5) == (16, 37, 37, 32)
    assert backbone.text_dim == TEXT_DIM


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (375, 500), (97, 33), (1, 1)])
@torch.no_grad()
def test_any_size(backbone: StableDiffusionBackbone, size: tuple[int, int]) -> None:
    features = backbone(torch.rand(2, 3, *size), torch.randn(2, 4, TEXT_DIM))
    for features_map, stride in zip(features.maps, features.strides, strict=True):
        assert features_map.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
    for stride, attention in features.attention.items():
        assert attention.shape == (2, 4, -(-size[0] // stride), -(-size[1] // stride))


def test_nothing_unused_is_kept(backbone: StableDiffusionBackbone) -> None:
    names = list(backbone.state_dict())
    assert not [name for name in names if "decoder" in name or ("conv_out" in name and name.startswith("unet."))]
    assert not any(parameter.requires_grad for parameter in backbone.vae.parameters())
    assert all(parameter.requires_grad for parameter in backbone.unet.parameters())


@torch.no_grad()
def test_latent_scaling(tiny_diffusion: Path, backbone: StableDiffusionBackbone) -> None:
    plain = StableDiffusionBackbone.from_pretrained(tiny_diffusion, latent_scaling="none")
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(backbone.encode(images), plain.encode(images) * 0.18215)
    torch.testing.assert_close(plain.encode(images), tiny_mode(tiny_diffusion, images))


def tiny_mode(folder: Path, images: torch.Tensor) -> torch.Tensor:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder, subfolder="vae").encode(images).latent_dist.mode()


@pytest.mark.parametrize("in_channels", [5, 8, 9])  # depth, editing, inpainting
def test_a_unet_that_needs_more_than_latents_is_refused(in_channels: int) -> None:
    with pytest.raises(UsageError, match=f"takes {in_channels} channels, but the autoencoder makes 4"):
        StableDiffusionBackbone(unet=tiny_unet(in_channels=in_channels), vae=tiny_vae())


def test_old_names_of_the_vae_attention(tmp_path: Path) -> None:
    """The Stable Diffusion 1.5 folder on the hub names its VAE attention query, key, value, proj_attn."""
    folder = write_tiny_diffusion(tmp_path / "old")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in load_file(path).items():
        name = key
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        state[name] = value
    images = torch.rand(1, 3, 64, 64)
    wanted = StableDiffusionBackbone.from_pretrained(folder).encode(images)
    save_file(state, path, metadata={"format": "pt"})
    assert torch.equal(StableDiffusionBackbone.from_pretrained(folder).encode(images), wanted)


@torch.no_grad()
def test_latents_that_are_there_take_the_images_place(tiny_diffusion: Path) -> None:
    backbone = StableDiffusionBackbone.from_pretrained(tiny_diffusion)
    images, text = torch.rand(1, 3, 64, 64), torch.randn(1, 4, TEXT_DIM)
    wanted = backbone(images, text)
    got = backbone(None, text, latents=backbone.encode(images))
    assert all(torch.equal(first, second) for first, second in zip(got.maps, wanted.maps, strict=True))
    with pytest.raises(ValueError, match="neither images nor latents"):
        backbone(None, text)
