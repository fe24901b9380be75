import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("segment", ["semantic segmentation (segment)", "3: sky, tree, car", "fpn", "none"]),
        ("refer", ["referring segmentation (refer)", "8 for an expression", "cascade", "yes"]),
        ("depth", ["metric depth (depth)", "2: kitchen, office", "up to 10 m"]),
    ],
)
def test_a_model_folder(vpd_command: Command, models: dict[str, Path], task: str, said: list[str]):
    result = vpd_command("info", models[task])
    assert result.status == 0
    for words in [
        *said,
        "short side to 64 px",
        "text width 16",
        "diffusion",
        "Apache-2.0",
        "the tests",
        "default",
    ]:
        assert words in result.out


def test_parameters_are_counted_as_the_model_has_them(vpd_command: Command, models: dict[str, Path]):
    import vpd

    for task, folder in models.items():
        model = vpd.load(folder)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        shown = vpd_command("info", folder).out
        assert f"{trainable / 1e6:,.2f} M trainable, {frozen / 1e6:,.2f} M frozen (F32)" in shown, task


def test_no_torch_is_needed(models: dict[str, Path]):
    code = (
        "import sys; from vpd.cli.info import describe_source; describe_source(sys.argv[1])\n"
        "sys.exit(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)) or 0)"
    )
    shown = subprocess.run([sys.executable, "-c", code, models["segment"]], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_a_diffusion_folder(vpd_command: Command, tmp_path: Path):
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    (tmp_path / "sd" / "vae").mkdir()
    unet = {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768}
    (tmp_path / "sd" / "unet" / "config.json").write_text(json.dumps(unet))
    (tmp_path / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    shown = vpd_command("info", tmp_path / "sd").out
    for words in ("StableDiffusionPipeline", "320/640/1280/1280 channels, text width 768", "unet, vae", "vpd train"):
        assert words in shown


def test_a_single_file_of_stable_diffusion(vpd_command: Command, tmp_path: Path):
    prefix = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    tokens = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    rest = {"first_stage_model.a": torch.zeros(2), tokens: torch.zeros(2, 768)}
    save_file({prefix: torch.zeros(32, 768), **rest}, tmp_path / "sd.safetensors")
    shown = vpd_command("info", tmp_path / "sd.safetensors").out
    assert "Stable Diffusion in one file, text width 768, with text encoder" in shown


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        ("state_dict", "decode_head.conv_seg.weight", "vpd convert segment"),
        ("model", "module.classifier.conv1_1.weight", "vpd convert refer"),
        ("model", "decoder.deconv_layers.0.weight", "vpd convert depth"),
        ("model", "fc.weight", "not known here"),
    ],
)
def test_a_published_checkpoint(vpd_command: Command, tmp_path: Path, entry: str, key: str, said: str):
    torch.save({entry: {key: torch.zeros(2, 3)}, "iteration": 7}, tmp_path / "a.pth")
    result = vpd_command("info", tmp_path / "a.pth")
    assert result.status == 0
    assert said in " ".join(result.out.split())
    assert "1, 0.00 M values" in result.out


def test_what_is_damaged_is_named(vpd_command: Command, models: dict[str, Path], tmp_path: Path):
    cut = shutil.copytree(models["segment"], tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-4])
    wrong = shutil.copytree(models["segment"], tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps({**config, "classes": []}))
    text = shutil.copytree(models["segment"], tmp_path / "text")
    (text / "config.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    (tmp_path / "sd" / "unet" / "config.json").write_text("{")
    for source, said in (
        (cut, "truncated"),
        (wrong, "classes"),
        (text, "JSON"),
        (tmp_path / "empty", "config.json"),
        (tmp_path / "sd", "cannot be read as JSON"),
        (tmp_path / "absent", "There is no model folder"),
    ):
        result = vpd_command("info", source)
        assert (result.status, result.err.count("\n")) == (2, 1)
        assert said in result.err
