from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tiny import tiny_text_model
from vpd import DepthModel, ReferringModel, SegmentationModel, StableDiffusionBackbone, UsageError
from vpd.cli.info import describe_source
from vpd.prompts.encoder import TextEncoder

UNET, FIRST = "model.diffusion_model.", "model.diffusion_model.input_blocks.0.0.weight"
WHOLE = {FIRST: (8, 4, 3, 3), "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}
FILES: list[tuple[dict[str, tuple[int, ...]], str]] = [
    ({**WHOLE, f"{UNET}middle_block.1.transformer_blocks.9.norm1.weight": (8,)}, "Stable Diffusion XL"),
    ({**WHOLE, "conditioner.embedders.1.model.ln_final.weight": (8,)}, "Stable Diffusion XL"),
    ({**WHOLE, f"{UNET}joint_blocks.0.x_block.attn.proj.weight": (8, 8)}, "Stable Diffusion 3"),
    ({"double_blocks.0.img_attn.proj.weight": (8, 8)}, "Flux"),
    ({"adaln_single.linear.weight": (8, 8)}, "PixArt"),
    ({"clip_txt_mapper.weight": (8, 8)}, "Stable Cascade"),
    ({**WHOLE, f"{UNET}input_blocks.1.0.time_stack.in_layers.0.weight": (8,)}, "Stable Video Diffusion"),
    ({**WHOLE, FIRST: (8, 9, 3, 3)}, "an inpainting model"),
    ({**WHOLE, FIRST: (8, 5, 3, 3)}, "a depth-to-image model"),
    ({**WHOLE, FIRST: (8, 7, 3, 3)}, "an upscaler"),
    ({"control_model.input_hint_block.0.weight": (8, 3, 3, 3)}, "a ControlNet"),
    ({"down_blocks.0.motion_modules.0.norm.weight": (8,)}, "an AnimateDiff motion module"),
    ({"lora_unet_down_blocks_0.lora_up.weight": (8, 4)}, "a LoRA file"),
    ({"unet.down_blocks.0.attn1.to_k.lora_A.weight": (8, 4)}, "a LoRA file"),
    ({"emb_params": (2, 768)}, "a textual inversion"),
    ({"<my-cat>": (768,)}, "a textual inversion"),
    ({"first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}, r"an autoencoder \(VAE\) alone"),
    ({"encoder.down_blocks.0.resnets.0.conv1.weight": (8, 3, 3, 3)}, r"an autoencoder \(VAE\) alone"),
    ({FIRST: (8, 4, 3, 3)}, "a UNet alone"),
    ({"text_model.final_layer_norm.weight": (8,)}, "a text encoder alone"),
]


@pytest.mark.parametrize(("shapes", "name"), FILES)
def test_a_single_file_of_something_else_is_named_in_one_line(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], name: str
) -> None:
    path = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    for load in (StableDiffusionBackbone, TextEncoder):
        with pytest.raises(UsageError, match=f"file.safetensors is {name}") as caught:
            load.from_pretrained(path)
        assert "\n" not in str(caught.value)
    assert name.replace("\\", "") in describe_source(path)["kind"]


def test_words_as_their_makers_save_them(tmp_path: Path) -> None:
    words = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.zeros(2, 768)}}
    torch.save(words, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="a.pt is a textual inversion"):
        StableDiffusionBackbone.from_pretrained(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("index", "unet", "name"),
    [
        ("StableDiffusionXLPipeline", {"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ("", {"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", None, "Stable Diffusion 3"),
        ("FluxPipeline", None, "Flux"),
        ("PixArtAlphaPipeline", None, "PixArt"),
        ("WuerstchenDecoderPipeline", None, "Wuerstchen"),
        ("StableCascadePriorPipeline", None, "Stable Cascade"),
        ("IFPipeline", {"in_channels": 3, "encoder_hid_dim_type": "text_proj"}, "DeepFloyd IF"),
        ("StableDiffusionInpaintPipeline", {"in_channels": 9}, "an inpainting model"),
        ("", {"in_channels": 9}, "an inpainting model"),
        ("StableDiffusionDepth2ImgPipeline", {"in_channels": 5}, "a depth-to-image model"),
        ("StableDiffusionUpscalePipeline", {"in_channels": 7, "num_class_embeds": 1000}, "an upscaler"),
        ("SanaPipeline", None, "a SanaPipeline"),
    ],
)
def test_a_folder_of_something_else_is_named_in_one_line(
    tmp_path: Path, index: str, unet: dict[str, Any] | None, name: str
) -> None:
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    if unet is not None:
        (tmp_path / "unet" / "config.json").write_text(json.dumps(unet))
    if index:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": index}))
    for load in (StableDiffusionBackbone, TextEncoder):
        with pytest.raises(UsageError, match=f"is {name}.*family that is read here") as caught:
            load.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
    assert name in describe_source(tmp_path)["not read here"]


def test_the_name_of_a_pipeline_alone_refuses_nothing(tiny_diffusion: Path, tmp_path: Path) -> None:
    """Inpainting pipelines are also made of plain UNets."""
    folder = shutil.copytree(tiny_diffusion, tmp_path / "sd")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionInpaintPipeline"}')
    assert StableDiffusionBackbone.from_pretrained(folder).text_dim == TextEncoder.from_pretrained(folder).dim


@pytest.fixture(scope="module")
def two_models(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UNet for text of 16 channels beside a text encoder that makes 32."""
    folder = shutil.copytree(tiny_diffusion, tmp_path_factory.mktemp("two") / "sd")
    shutil.rmtree(folder / "text_encoder")
    tiny_text_model(32).save_pretrained(folder / "text_encoder")
    return folder


def test_a_text_encoder_of_another_width_is_refused_everywhere(two_models: Path, tiny_diffusion: Path) -> None:
    said = "text encoder makes 32 channels, UNet needs 16"
    for begin in (
        lambda: StableDiffusionBackbone.from_pretrained(two_models),
        lambda: SegmentationModel.from_diffusion(two_models, classes=["sky", "tree"]),
        lambda: DepthModel.from_diffusion(two_models, scenes=["kitchen"]),
        lambda: ReferringModel.from_diffusion(two_models),
        lambda: TextEncoder.from_pretrained(two_models),
    ):
        with pytest.raises(UsageError, match=said):
            begin()
    fitting = ReferringModel.from_diffusion(tiny_diffusion, token_length=8)
    other = TextEncoder(tiny_text_model(32), fitting.text_encoder.tokenizer)
    with pytest.raises(UsageError, match=said):
        ReferringModel(fitting.config, backbone=fitting.backbone, text_encoder=other)


def test_a_saved_model_with_another_text_encoder_is_refused(
    two_models: Path, tiny_diffusion: Path, tmp_path: Path
) -> None:
    import vpd

    ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8).save(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "text_encoder")
    shutil.copytree(two_models / "text_encoder", tmp_path / "model" / "text_encoder")
    with pytest.raises(UsageError, match="text encoder makes 32 channels, UNet needs 16"):
        vpd.load(tmp_path / "model")
