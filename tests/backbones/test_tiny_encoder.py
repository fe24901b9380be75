"""A small encoder in the VAE's place: the convention of its latents, and every folder that is not one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linear_codes import exact_encoder, linear_vae
from tiny import tiny_unet
from vpd import StableDiffusionBackbone, UsageError
from vpd.backbones.tiny_encoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    TinyEncoder,
    TinyEncoderConfig,
    load_tiny_encoder,
    save_tiny_encoder,
)
from vpd.weights.folder_files import Select


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.manual_seed(0)) * 2 - 1


def taesd(**changes: Any) -> AutoencoderTiny:
    """A published one in small, decoder and all."""
    torch.manual_seed(0)
    levels: dict[str, Any] = {f"{side}_block_out_channels": (8,) * 4 for side in ("encoder", "decoder")}
    return AutoencoderTiny(**{**levels, "num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1,) * 4, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    taesd().save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


@torch.no_grad()
def test_it_is_diffusers_encoder(folder: Path) -> None:
    """A published folder with its decoder loads, and computes what diffusers does, with and without gradient."""
    encoder = load_tiny_encoder(folder)
    wanted = taesd().encode(images()).latents
    torch.testing.assert_close(encoder(images()), wanted)
    with torch.enable_grad():
        torch.testing.assert_close(encoder(images()), wanted)
    assert encoder.config.latent_stride == 8
    assert not [name for name in encoder.state_dict() if not name.startswith("encoder.")]


@torch.no_grad()
def test_diffusers_reads_what_is_written(tmp_path: Path) -> None:
    encoder = TinyEncoder(TinyEncoderConfig.for_vae(latent_stride=4, latent_channels=6))
    save_tiny_encoder(encoder, tmp_path / "out")
    again = load_tiny_encoder(tmp_path / "out")
    assert again.config == encoder.config
    assert torch.equal(again(images()), encoder(images()))
    theirs = AutoencoderTiny.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False)
    torch.testing.assert_close(theirs.encode(images()).latents, encoder(images()))


def test_published_sizes() -> None:
    """1.22 million weights at stride 8, as TAESD's encoder has."""
    encoder = TinyEncoder(TinyEncoderConfig.for_vae(latent_stride=8, latent_channels=4))
    assert encoder.config == TinyEncoderConfig()
    assert sum(weight.numel() for weight in encoder.parameters()) == 1_222_532


@pytest.mark.parametrize("scaling", ["none", "scaled"])
@pytest.mark.parametrize("shift", [None, 0.3])
@torch.no_grad()
def test_convention(scaling: Any, shift: float | None) -> None:
    """An encoder that makes exactly the VAE's latents, times its factor, gives the very same features."""
    vae = linear_vae(scaling_factor=0.18215, shift_factor=shift)
    torch.manual_seed(0)
    backbone = StableDiffusionBackbone(unet=tiny_unet(), vae=vae, latent_scaling=scaling).eval()
    text = torch.randn(1, 3, backbone.text_dim)
    wanted, latents = backbone(images(60, 90), text), backbone.encode(images(60, 90))
    backbone.use_small_encoder(exact_encoder(vae))
    got = backbone(images(60, 90), text)
    assert latents.std() > 0.05
    torch.testing.assert_close(backbone.encode(images(60, 90)), latents)
    for ours, theirs in zip(got.maps, wanted.maps, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert backbone.vae.encoder is None


@torch.no_grad()
def test_own_factor(folder: Path) -> None:
    """An encoder whose folder has another factor than 1 is brought to the same scale."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, "scaling_factor": 2.0, "shift_factor": 0.5}))
    wanted = (taesd().encode(images()).latents - 0.5) * 2
    torch.testing.assert_close(load_tiny_encoder(folder)(images()), wanted)


@pytest.mark.parametrize(
    ("stride", "channels", "said"),
    [(4, 4, "stride 4 with 4 channels; the model needs stride 8 with 4"), (8, 16, "stride 8 with 16 channels")],
)
def test_another_form(stride: int, channels: int, said: str) -> None:
    backbone = StableDiffusionBackbone(unet=tiny_unet(), vae=linear_vae())
    encoder = TinyEncoder(TinyEncoderConfig.for_vae(latent_stride=stride, latent_channels=channels))
    with pytest.raises(UsageError, match=said) as error:
        backbone.use_small_encoder(encoder)
    assert "vpd pretrain encoder" in str(error.value)
    assert backbone.small_encoder is None and isinstance(backbone.vae.encoder, nn.Module)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder: Path, **changes: Tensor | None) -> None:
    tensors: dict[str, Any] = {**load_file(folder / WEIGHTS_FILE), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / WEIGHTS_FILE)


FIRST = "encoder.layers.0.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda f: shutil.rmtree(f),
            "There is no small encoder .* Give a folder, or a hub id such as madebyollin/taesd",
        ),
        (lambda f: (f / CONFIG_FILE).unlink(), "has no config.json: it is not the folder of an AutoencoderTiny"),
        (lambda f: (f / CONFIG_FILE).write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / CONFIG_FILE).write_text("[]"), "is of something else, not of an AutoencoderTiny"),
        (lambda f: change_config(f, _class_name="AutoencoderKL"), "is of 'AutoencoderKL', not of an AutoencoderTiny"),
        (lambda f: change_config(f, encoder_block_out_channels=[2**20] * 4), "less than or equal to 1024"),
        (lambda f: change_config(f, encoder_block_out_channels=[8] * 99), "at most 8 items"),
        (lambda f: change_config(f, encoder_block_out_channels=[8, 8, 8, 16]), "must all be the same"),
        (lambda f: change_config(f, num_encoder_blocks=[1, 1]), "must be of one length"),
        (lambda f: change_config(f, num_encoder_blocks=[1, 1, 1, 10**9]), "less than or equal to 16"),
        (lambda f: change_config(f, act_fn="gelu"), "act_fn: Input should be 'relu'"),
        (lambda f: change_config(f, scaling_factor=0), "scaling_factor: Input should be greater than 0"),
        (lambda f: (f / WEIGHTS_FILE).unlink(), "There is no .*diffusion_pytorch_model.safetensors"),
        (lambda f: (f / WEIGHTS_FILE).rename(f / "diffusion_pytorch_model.bin"), "pickled weights only"),
        (lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes()[:-9]), "is truncated"),
        (lambda f: (f / WEIGHTS_FILE).write_bytes(b"no tensors, but a text"), "truncated or not a safetensors file"),
        (lambda f: change_weights(f, **{FIRST: None}), f"does not fit its config.json .1 keys.*\n  missing {FIRST}"),
        (lambda f: change_weights(f, **{FIRST: torch.zeros(8, 4, 3, 3)}), "has shape .8, 4, 3, 3., needs .8, 3, 3, 3."),
        (lambda f: change_weights(f, **{"encoder.layers.99.bias": torch.zeros(8)}), "unexpected encoder.layers.99"),
        (lambda f: change_weights(f, **{FIRST: torch.full((8, 3, 3, 3), torch.nan)}), "holds NaN or infinity"),
    ],
)
def test_what_is_none(folder: Path, damage: Any, said: str) -> None:
    damage(folder)
    with pytest.raises(UsageError, match=said):
        load_tiny_encoder(folder)


def test_a_file(folder: Path) -> None:
    with pytest.raises(UsageError, match="is a file; a small encoder is a folder with"):
        load_tiny_encoder(folder / WEIGHTS_FILE)


def test_the_decoder_is_not_read(folder: Path) -> None:
    change_weights(folder, **{name: None for name in load_file(folder / WEIGHTS_FILE) if name.startswith("decoder.")})
    change_config(folder, decoder_block_out_channels=[2**30])
    assert load_tiny_encoder(folder).config.latent_stride == 8


def test_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub_id: str, select: Select) -> Path:
        asked.append((hub_id, select({CONFIG_FILE, WEIGHTS_FILE, "README.md"})))
        return folder

    monkeypatch.setattr("vpd.backbones.tiny_encoder.download", download)
    assert load_tiny_encoder("madebyollin/taesd").config.latent_stride == 8
    assert asked == [("madebyollin/taesd", ([CONFIG_FILE, WEIGHTS_FILE], ""))]
