"""A folder that loads as Stable Diffusion does."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.autoencoder import SHIPPED, build_autoencoder, save_autoencoder
from experiments.miniature import write_diffusion_folder
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.errors import UsageError

SMALL = {"unet_channels": (8, 16, 16, 16), "layers_per_block": 1, "text_dim": 16, "text_layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_diffusion_folder(tmp_path_factory.mktemp("mini"), **SMALL)


def test_every_part_loads_with_its_library(folder):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    assert DDIMScheduler.from_pretrained(folder / "scheduler").config.beta_schedule == "scaled_linear"
    assert unet.config.down_block_types == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert unet.config.up_block_types == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    tokens = tokenizer("a photo of a dog", padding="max_length", return_tensors="pt").input_ids
    assert tokens.shape == (1, 77)
    assert tokens[0, :7].tolist() == [49406, 320, 1125, 539, 320, 1929, 49407]
    with torch.no_grad():
        text_embeds = text_encoder(tokens).last_hidden_state
        latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mode() * vae.config.scaling_factor
        noise = unet(latents, 1, text_embeds).sample
    assert text_embeds.shape == (1, 77, 16)
    assert noise.shape == latents.shape == (1, 4, 8, 8)


def test_it_is_a_diffusion_model_to_this_package(folder):
    backbone = StableDiffusionBackbone.from_pretrained(folder)
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 64), torch.zeros(1, 5, backbone.text_dim))
    assert backbone.text_dim == 16
    assert features.strides[0] == 4  # the VAE's
    assert features.maps[0].shape[-2:] == (16, 16)


def test_the_shipped_autoencoder_is_the_default(folder):
    file = "diffusion_pytorch_model.safetensors"
    ours, shipped = load_file(folder / "vae" / file), load_file(SHIPPED / file)
    assert all(torch.equal(ours[name], shipped[name]) for name in shipped)


def test_weights_come_from_the_seed(folder, tmp_path):
    state = torch.get_rng_state()
    again = write_diffusion_folder(tmp_path / "again", **SMALL)
    other = write_diffusion_folder(tmp_path / "other", **SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for file in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
        assert (other / file).read_bytes() != (folder / file).read_bytes()


def test_another_autoencoder(tmp_path):
    save_autoencoder(build_autoencoder((8, 8), latent_channels=6), tmp_path / "vae")
    folder = write_diffusion_folder(tmp_path / "folder", vae=tmp_path / "vae", **SMALL)
    assert UNet2DConditionModel.from_pretrained(folder / "unet").config.in_channels == 6


@pytest.mark.parametrize(
    "wrong", [{"unet_channels": (8, 12, 16, 16)}, {"text_dim": 20}, {"heads": 3}, {"unet_channels": (8, 8, 8)}]
)
def test_widths_that_do_not_fit(tmp_path, wrong):
    with pytest.raises(UsageError, match="four UNet widths"):
        write_diffusion_folder(tmp_path, **(SMALL | wrong))
    assert not list(tmp_path.iterdir())
