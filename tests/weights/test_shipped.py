"""The shipped text-to-image model: whole, verified, loaded by its name, and its words mean something."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

import vpd
from vpd import SegmentationModel, StableDiffusionBackbone
from vpd.cli.model_facts import describe_source
from vpd.errors import UsageError
from vpd.pretraining.autoencoder import load_autoencoder
from vpd.pretraining.gauges import attention_ratio, follow_rates, sample_latents, text_gap, to_pictures
from vpd.pretraining.latents import LatentSet, prepare_latents
from vpd.pretraining.measures import nearest_colour
from vpd.pretraining.miniature import noise_schedule
from vpd.prompts.encoder import TextEncoder
from vpd.weights.shipped import ADAPTED, FOLDER, HASHES, shipped_diffusion, shipped_model
from vpd.world.dataset import split_seed
from vpd.world.render import render
from vpd.world.sample_scene import sample_scene


@pytest.fixture(scope="module")
def networks():
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", torch_dtype=torch.float32)
    return unet.eval(), TextEncoder.from_pretrained("world")


def test_every_weight_is_hashed():
    listed = json.loads((FOLDER / HASHES).read_text())
    assert set(listed) == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.safetensors")}
    assert sum((FOLDER / name).stat().st_size for name in listed) < 60e6


def test_damaged_file_is_named(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "weights")
    path = tmp_path / "weights" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=r"unet/diffusion_pytorch_model\..* is damaged: .*Install vpd again"):
        shipped_diffusion(tmp_path / "weights")
    path.unlink()
    with pytest.raises(UsageError, match="is missing, not"):
        shipped_diffusion(tmp_path / "weights")


@pytest.mark.parametrize("name", ADAPTED)
def test_adapted_models_by_name(tmp_path, name):
    model = vpd.load(name, device="cpu")
    assert model.config.task == ADAPTED[name] and model.config.licence == "Apache-2.0"
    assert describe_source(name)["base"] == "world"
    shutil.copytree(FOLDER, tmp_path / "weights")
    path = tmp_path / "weights" / ADAPTED[name] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=f"{ADAPTED[name]}/model.safetensors .* is damaged: .*Install vpd again"):
        shipped_model(name, tmp_path / "weights")
    shipped_diffusion(tmp_path / "weights")  # which is whole


def test_samples_follow_their_prompts():
    rates = follow_rates(vpd.load("world-segment", device="cpu"), repeats=1)
    assert rates["colour"] > 0.9 and rates["both"] > 0.8


def test_it_is_a_backbone_by_its_name():
    backbone = StableDiffusionBackbone.from_pretrained("world")
    assert backbone.strides == (4, 8, 16, 32) and backbone.text_dim == 128
    assert next(backbone.unet.parameters()).dtype == torch.float32
    model = SegmentationModel.from_diffusion("world", classes=["cube", "wall"], head_channels=8)
    assert model.predict(np.zeros((40, 50, 3), dtype=np.uint8)).labels.shape == (40, 50)


def test_it_uses_its_captions(networks, tmp_path, monkeypatch):
    monkeypatch.setattr("vpd.pretraining.latents.SCENES_PER_SHARD", 24)
    data = LatentSet(prepare_latents(tmp_path, scenes=24, seed=split_seed(0, "test")))
    gaps = text_gap(*networks, noise_schedule(), data)
    assert min(gaps[400], gaps[550], gaps[700]) > 0.1


def test_words_find_their_objects(networks):
    renderings = [render(sample_scene(split_seed(0, "test"), index), 64) for index in range(8)]
    assert attention_ratio(*networks, load_autoencoder(None), renderings)[1] > 1.3


def test_samples_have_the_colour_that_was_asked_for(networks):
    colours = ("red", "green", "blue", "yellow")
    place = "a room with a gray floor and gray walls, lit from the left"
    texts = [f"{place}: a large {colour} matte cone near in the middle" for colour in colours]
    drawn = to_pictures(load_autoencoder(None), sample_latents(*networks, noise_schedule(), texts, steps=15))
    for colour, picture in zip(colours, drawn, strict=True):
        pixels = picture.reshape(-1, 3).astype(int)
        coloured = pixels[np.ptp(pixels, axis=1) > 80]
        assert len(coloured) > 100 and nearest_colour(coloured) == colour
