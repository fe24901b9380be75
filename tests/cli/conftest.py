"""Tiny real models on disk, and the command line run inside this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.cli import main
from vpd.config import BackboneConfig, DepthConfig, Fit, ReferConfig, SegmentConfig
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

TEXT_DIM = 16
UNET = {
    "block_out_channels": [16, 32, 32, 32],
    "layers_per_block": 2,
    "cross_attention_dim": TEXT_DIM,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 8,
}
VAE = {
    "block_out_channels": [8, 8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def vpd_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `vpd` with the given words in this process."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("vpd.cli._quiet", lambda: None)  # it changes the process for good
    monkeypatch.setenv("VPD_DEBUG", "")

    def run(*words: object) -> Result:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a tiny model with random weights for each task."""
    torch.manual_seed(0)
    common = {
        "backbone": BackboneConfig(unet=UNET, vae=VAE, source="random weights"),
        "fit": Fit(size_px=64),
        "licence": "Apache-2.0",
        "notes": {"made_by": "the tests"},
    }
    text = CLIPTextConfig(
        hidden_size=TEXT_DIM,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=49408,
        eos_token_id=49407,
    )
    encoder = TextEncoder(CLIPTextModel(text), clip_tokenizer())
    configs = (
        SegmentConfig(classes=("sky", "tree", "car"), head_channels=8, **common),
        ReferConfig(token_length=8, head_channels=8, **common),
        DepthConfig(
            scenes=("kitchen", "office"), head_channels=16, feature_channels=16, deconv_channels=(8,) * 3, **common
        ),
    )
    kinds = {"segment": SegmentationModel, "refer": ReferringModel, "depth": DepthModel}
    folders = {}
    for config in configs:
        backbone = StableDiffusionBackbone.from_config(config.backbone)
        model = kinds[config.task](config, backbone=backbone, text_encoder=encoder if config.task == "refer" else None)
        folders[config.task] = tmp_path_factory.mktemp(config.task) / "model"
        model.save(folders[config.task])
    return folders


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three small photographs of different sizes, one in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.jpg", (70, 50)), ("b.png", (40, 90)), ("more/a.jpg", (64, 64))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / name)
    return folder
