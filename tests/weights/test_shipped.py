"""The shipped text-to-image model: whole, verified, loaded by its name."""

import json
import shutil

import numpy as np
import pytest
import torch

import vpd
from vpd import SegmentationModel, StableDiffusionBackbone
from vpd.cli.info import describe_source
from vpd.errors import UsageError
from vpd.weights.shipped import ADAPTED, FOLDER, HASHES, shipped_diffusion, shipped_model


def test_every_weight_is_hashed():
    listed = json.loads((FOLDER / HASHES).read_text())
    assert set(listed) == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.safetensors")}
    assert sum((FOLDER / name).stat().st_size for name in listed) <= 38e6


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
    part = name.removeprefix("world-")
    path = tmp_path / "weights" / part / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=f"{part}/model.safetensors .* is damaged: .*Install vpd again"):
        shipped_model(name, tmp_path / "weights")
    shipped_diffusion(tmp_path / "weights")  # which is whole


def test_it_is_a_backbone_by_its_name():
    backbone = StableDiffusionBackbone.from_pretrained("world")
    assert backbone.strides == (4, 8, 16, 32) and backbone.text_dim == 128
    assert next(backbone.unet.parameters()).dtype == torch.float32
    model = SegmentationModel.from_diffusion("world", classes=["cube", "wall"], head_channels=8)
    assert model.predict(np.zeros((40, 50, 3), dtype=np.uint8)).labels.shape == (40, 50)
