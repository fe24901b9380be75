from __future__ import annotations

from pathlib import Path

import pytest
import torch

from single_files import SHAPES, clip_state, open_clip_state, text_model, write_single_file
from tiny import TEXT_DIM, tiny_unet, tiny_vae
from vpd import StableDiffusionBackbone, UsageError
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.weights.clip_text import build_text_model
from vpd.weights.key_names import ldm_unet_names, ldm_vae_name
from vpd.weights.single_file import SingleFile, infer_unet_config, infer_vae_config

TEXTS = ["a dog on the left", "zebra"]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@torch.no_grad()
def test_single_file_equals_folder(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    unet = tiny_unet(**SHAPES, attention_head_dim=8)
    vae = tiny_vae(block_out_channels=(32, 32, 64, 64), norm_num_groups=32)
    model = text_model(act="quick_gelu", width=TEXT_DIM, heads=1)
    path = write_single_file(tmp_path / f"sd{suffix}", unet, vae, clip_state(model))
    unet.save_pretrained(tmp_path / "folder" / "unet")
    vae.save_pretrained(tmp_path / "folder" / "vae")
    from_file = StableDiffusionBackbone.from_pretrained(path)
    from_folder = StableDiffusionBackbone.from_pretrained(tmp_path / "folder")
    images, embeds = torch.rand(1, 3, 64, 96), torch.randn(1, 3, TEXT_DIM)
    one, other = from_file(images, embeds), from_folder(images, embeds)
    for got, wanted in zip(one.maps, other.maps, strict=True):
        assert torch.equal(got, wanted)
    wanted = TextEncoder(model, clip_tokenizer())
    assert torch.equal(TextEncoder.from_pretrained(path).tokens(TEXTS, length=12), wanted.tokens(TEXTS, length=12))


@torch.no_grad()
def test_single_file_of_sd2(tmp_path: Path) -> None:
    """1024-wide text, linear projections, 64 channels a head, OpenCLIP names; the last text layer is left out."""
    torch.manual_seed(0)
    unet = tiny_unet(
        block_out_channels=(64, 128, 128, 128),
        norm_num_groups=32,
        attention_head_dim=(1, 2, 2, 2),
        cross_attention_dim=1024,
        use_linear_projection=True,
        layers_per_block=1,
    ).eval()
    vae = tiny_vae(block_out_channels=(32, 32, 64, 64), norm_num_groups=32)
    path = write_single_file(tmp_path / "sd2.safetensors", unet, vae, {})
    backbone = StableDiffusionBackbone.from_pretrained(path).eval()
    assert backbone.config.unet["use_linear_projection"] is True
    assert list(backbone.config.unet["attention_head_dim"]) == [1, 2, 2, 2]
    latents, embeds = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 1024)
    finest = backbone(None, embeds, latents=latents * 1.0).maps[0]
    wanted = unet(latents, 1, embeds).sample
    torch.testing.assert_close(unet.conv_out(unet.conv_act(unet.conv_norm_out(finest))), wanted, atol=2e-5, rtol=0)
    model = text_model(act="gelu")
    narrow = tiny_unet(**SHAPES, attention_head_dim=8, cross_attention_dim=128)
    path = write_single_file(tmp_path / "text.safetensors", narrow, vae, open_clip_state(model))
    encoder = TextEncoder.from_pretrained(path)
    ids = encoder.tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt").input_ids
    assert ids[1].tolist() == [49406, 22548, 49407, *[0] * 9]
    wanted = model.eval()(ids).last_hidden_state
    torch.testing.assert_close(encoder.tokens(TEXTS, length=12), wanted, atol=1e-6, rtol=1e-6)


def ldm_unet(**changes) -> dict[str, torch.Tensor]:
    unet = tiny_unet(**{**SHAPES, "attention_head_dim": 8, **changes})
    names = ldm_unet_names(unet.state_dict())
    return {names[key]: value for key, value in unet.state_dict().items()}


def ldm_vae() -> dict[str, torch.Tensor]:
    return {ldm_vae_name(key): value for key, value in tiny_vae().state_dict().items() if key.startswith("encoder.")}


def test_stray_numbers_build_no_layers() -> None:
    unet, vae = ldm_unet(), ldm_vae()
    wanted = infer_unet_config(unet, origin="file"), infer_vae_config(vae, origin="file")
    for number in ("40", "99999999", "9" * 5000):
        unet[f"input_blocks.{number}.0.op.weight"] = torch.zeros(1)
        vae[f"encoder.down.{number}.block.0.conv1.weight"] = torch.zeros(1)
        vae[f"encoder.down.0.block.{number}.conv1.weight"] = torch.zeros(1)
    assert (infer_unet_config(unet, origin="file"), infer_vae_config(vae, origin="file")) == wanted


def test_more_layers_than_tensors_are_refused() -> None:
    state = {f"encoder.down.{level}.x": torch.zeros(1) for level in range(50)}
    state |= {f"encoder.down.0.block.{layer}.x": torch.zeros(1) for layer in range(50)}
    with pytest.raises(UsageError, match="50 levels of 50 layers in 100 tensors"):
        infer_vae_config(state, origin="file")


@pytest.mark.parametrize("size", [(), (32,), (0,)])
def test_odd_shapes_are_refused(size: tuple[int, ...]) -> None:
    unet, vae = ldm_unet(), ldm_vae()
    unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"] = torch.zeros(size)
    vae["encoder.conv_out.weight"] = torch.zeros(())
    with pytest.raises(UsageError, match="no Stable Diffusion UNet in it: its tensors have too few dimensions"):
        infer_unet_config(unet, origin="file")
    with pytest.raises(UsageError, match="no Stable Diffusion autoencoder in it: its tensors have too few dimensions"):
        infer_vae_config(vae, origin="file")


def test_shapes_that_diffusers_cannot_build_are_refused() -> None:
    unet = ldm_unet(block_out_channels=(16, 32, 32, 32), norm_num_groups=4)  # files have 32 groups
    with pytest.raises(UsageError, match="does not have the shapes of Stable Diffusion"):
        SingleFile(path=Path("file"), unet=unet, vae={}, rest={}).build_unet()


def test_narrow_sd2_has_one_head_a_level() -> None:
    config = infer_unet_config(ldm_unet(cross_attention_dim=1024), origin="file")
    assert config["attention_head_dim"] == [1, 1, 1, 1]


@pytest.mark.parametrize("heads", [0, -1, 5])
def test_impossible_heads_are_refused(heads: int) -> None:
    with pytest.raises(UsageError, match=f"32 channels cannot be split into {heads} heads"):
        infer_unet_config(ldm_unet(), origin="file", heads=heads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings.token_embedding.weight": torch.zeros(4)}, "odd dimensions"),
        ({"embeddings.token_embedding.weight": torch.zeros(0, 10**6)}, "does not fit"),
        ({"embeddings.token_embedding.weight": torch.zeros(8, 129)}, "does not fit"),
        ({"encoder.layers.0.mlp.fc1.weight": None}, "encoder.layers.0.mlp.fc1.weight' is missing"),
        ({"encoder.layers.99999999.mlp.fc1.weight": torch.zeros(1)}, "does not fit.*layers.99999999"),
    ],
)
def test_text_encoders_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    state = clip_state(text_model(act="quick_gelu"))
    for key, value in changes.items():
        state["transformer.text_model." + key] = value
    text = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(UsageError, match=f"(?s){message}"):
        build_text_model(SingleFile(path=Path("file"), unet={}, vae={}, rest=text))


def test_narrow_text_encoder_has_one_head() -> None:
    model = text_model(act="quick_gelu", width=16, heads=1)
    built = build_text_model(SingleFile(path=Path("file"), unet={}, vae={}, rest=clip_state(model)))
    assert built.config.num_attention_heads == 1
