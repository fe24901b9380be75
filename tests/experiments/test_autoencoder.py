"""The tiny autoencoder: loss by hand, files, and the weights that come with the package."""

import hashlib
import json

import pytest
import torch
from diffusers import AutoencoderKL

from experiments.autoencoder import (
    SHIPPED,
    autoencoder_loss,
    build_autoencoder,
    load_autoencoder,
    measured_scaling,
    normalise_latents,
    reconstruct,
    reconstruction_loss,
    save_autoencoder,
)
from experiments.measures import hue_accuracy, measure_autoencoder, nearest_colour, psnr
from vpd.pretraining.pictures import to_batch
from vpd.world.dataset import split_seed
from vpd.world.render import render
from vpd.world.sample_scene import sample_scene
from vpd.world.scenes import OBJECT_COLOURS

TINY = (8, 8, 8)


@pytest.fixture(scope="module")
def held_out():
    return [render(sample_scene(split_seed(0, "test"), index), 128) for index in range(12)]


@pytest.fixture(scope="module")
def shipped():
    return load_autoencoder()


def test_weights_come_from_the_seed_alone():
    state = torch.get_rng_state()
    one, same, other = (build_autoencoder(TINY, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.encoder.conv_in.weight, other.encoder.conv_in.weight)


def test_stride_is_four():
    vae = build_autoencoder(TINY)
    latents = vae.encode(torch.zeros(1, 3, 40, 24)).latent_dist.mode()
    assert latents.shape == (1, 4, 10, 6)
    assert vae.decode(latents).sample.shape == (1, 3, 40, 24)


def test_loss_of_a_flat_error_by_hand():
    images = torch.zeros(1, 3, 4, 4)
    assert reconstruction_loss(images, images) == 0
    # grey: luma is off by 0.1, chroma not at all; no gradients
    assert reconstruction_loss(images + 0.1, images) == pytest.approx((0.1 + 4 * 0.01) / 3)
    # blue: Y = 0.0114, Cb = 0.05, Cr = -0.0081312, chroma twice
    blue = images + torch.tensor([0.0, 0.0, 0.1])[:, None, None]
    luma, chroma = 0.0114 + 4 * 0.0114**2, 0.05 + 4 * 0.05**2 + 0.0081312 + 4 * 0.0081312**2
    assert reconstruction_loss(blue, images) == pytest.approx((luma + 2 * chroma) / 3, rel=1e-5)


def test_red_for_green_of_the_same_brightness_is_seen():
    """The mistake that a plain squared error hardly sees costs more than a grey error of the same size."""
    images = torch.zeros(1, 3, 4, 4)
    colour = images + torch.tensor([0.2, -0.2 * 0.299 / 0.587, 0.0])[:, None, None]
    grey = images + (colour.square().mean()).sqrt()
    assert reconstruction_loss(colour, images) > 1.2 * reconstruction_loss(grey, images)


def test_training_loss_reaches_every_weight():
    vae = build_autoencoder(TINY)
    autoencoder_loss(vae, torch.rand(1, 3, 16, 16), torch.Generator().manual_seed(0)).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in vae.parameters())


def latents_of(vae, images):
    with torch.no_grad():
        return vae.encode(images).latent_dist.mode()


def test_measured_scaling_gives_unit_deviation():
    vae = build_autoencoder(TINY)
    images = torch.rand(2, 3, 32, 32)
    factor = measured_scaling(vae, [images[:1], images[1:]])
    assert (latents_of(vae, images) * factor).std() == pytest.approx(1.0, abs=1e-4)


def test_normalised_latents_and_the_same_pictures():
    vae = build_autoencoder(TINY)
    images = torch.rand(2, 3, 32, 32)
    before = reconstruct(vae, images)
    with torch.no_grad():
        noise = vae.encode(images).latent_dist.std
    spread = latents_of(vae, images).std(dim=(0, 2, 3), keepdim=True)
    normalise_latents(vae, [images[:1], images[1:]])
    latents = latents_of(vae, images)
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(reconstruct(vae, images), before, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(vae.encode(images).latent_dist.std, noise / spread, rtol=1e-3)


def test_saved_folder_is_what_diffusers_reads(tmp_path):
    vae = build_autoencoder(TINY)
    vae.register_to_config(scaling_factor=0.37)
    save_autoencoder(vae, tmp_path / "vae")
    loaded = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert loaded.config.scaling_factor == 0.37
    expected = [weight.half().float() for weight in vae.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), expected, strict=True))
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_folder_without_an_autoencoder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_autoencoder(tmp_path)


def test_psnr_by_hand():
    truth = torch.zeros(1, 3, 2, 2)
    assert psnr(truth + 0.2, truth) == pytest.approx(20.0)  # range 2, error 0.2: a tenth


def test_hues_of_the_palette_are_told_apart(held_out):
    for name, rgb in OBJECT_COLOURS.items():
        pixels = (torch.tensor([rgb, rgb]) * 0.6 * 255).byte().numpy()
        assert nearest_colour(pixels) == name
    images = [rendering.image for rendering in held_out]
    assert hue_accuracy(held_out, images) == 1.0
    assert hue_accuracy(held_out, [image[..., [1, 2, 0]] for image in images]) < 0.3  # channels exchanged


def test_shipped_autoencoder_keeps_pictures_and_colours(shipped, held_out):
    quality = measure_autoencoder(shipped, held_out)
    assert quality["psnr_db"] >= 32  # 33.7 on 200 scenes
    assert quality["hue"] >= 0.98


def test_shipped_scaling_factor_is_measured(shipped, held_out):
    images = to_batch([rendering.image for rendering in held_out])
    latents = latents_of(shipped, images) * shipped.config.scaling_factor
    assert latents.std() == pytest.approx(1.0, abs=0.05)


def test_shipped_autoencoder_takes_other_sizes(shipped):
    image = to_batch([render(sample_scene(split_seed(0, "test"), 20), (96, 160)).image])
    assert psnr(reconstruct(shipped, image), image) > 25


def test_shipped_files_are_those_of_the_model_card():
    weights = SHIPPED / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 2_200_000
    assert json.loads((SHIPPED / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (SHIPPED.parent / "README.md").read_text()
