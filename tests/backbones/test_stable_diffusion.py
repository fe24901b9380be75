from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tiny import TEXT_DIM, tiny_text_model, tiny_unet, tiny_vae, write_tiny_diffusion
from vpd import StableDiffusionBackbone, UsageError
from vpd.prompts.encoder import TextEncoder
from vpd.reference.keys import ldm_unet_names, ldm_vae_name


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


def write_single_file(path: Path, unet, vae, text: dict[str, torch.Tensor]) -> Path:
    """Write parts under LDM's names, by the inverse of the key map."""
    state = {}
    names = ldm_unet_names(unet.state_dict())
    for key, value in unet.state_dict().items():
        state["model.diffusion_model." + names[key]] = value.clone()
    for key, value in vae.state_dict().items():
        if key.startswith(("encoder.", "quant_conv")):
            name = ldm_vae_name(key)
            is_conv = "attn_1" in name and value.ndim == 2
            state["first_stage_model." + name] = value[..., None, None].clone() if is_conv else value.clone()
    state |= {"cond_stage_model." + key: value.clone() for key, value in text.items()}
    state["model_ema.decay"] = torch.zeros(())
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 7}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@torch.no_grad()
def test_single_file_equals_folder(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    wide = {"block_out_channels": (32, 64, 64, 64), "norm_num_groups": 32, "attention_head_dim": 8}
    unet, vae = tiny_unet(**wide), tiny_vae(block_out_channels=(32, 32, 64, 64), norm_num_groups=32)
    model = tiny_text_model()
    text = {"transformer.text_model." + key.removeprefix("text_model."): v for key, v in model.state_dict().items()}
    path = write_single_file(tmp_path / f"sd{suffix}", unet, vae, text)
    unet.save_pretrained(tmp_path / "folder" / "unet")
    vae.save_pretrained(tmp_path / "folder" / "vae")
    from_file = StableDiffusionBackbone.from_pretrained(path)
    from_folder = StableDiffusionBackbone.from_pretrained(tmp_path / "folder")
    images, embeds = torch.rand(1, 3, 64, 96), torch.randn(1, 3, TEXT_DIM)
    one, other = from_file(images, embeds), from_folder(images, embeds)
    for got, wanted in zip(one.maps, other.maps, strict=True):
        assert torch.equal(got, wanted)
    encoder = TextEncoder.from_pretrained(path)
    assert torch.isfinite(encoder.pooled(["a dog"])).all()
    ours = encoder.model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in model.state_dict().items() if "position_ids" not in key)


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
    path = write_single_file(tmp_path / "sd2.safetensors", unet, vae, open_clip_state(width=64, layers=3))
    backbone = StableDiffusionBackbone.from_pretrained(path).eval()
    assert backbone.config.unet["use_linear_projection"] is True
    assert list(backbone.config.unet["attention_head_dim"]) == [1, 2, 2, 2]
    latents, embeds = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 1024)
    finest = backbone.features(latents * 1.0, embeds).maps[0]
    wanted = unet(latents, 1, embeds).sample
    torch.testing.assert_close(unet.conv_out(unet.conv_act(unet.conv_norm_out(finest))), wanted, atol=2e-5, rtol=0)
    encoder = TextEncoder.from_pretrained(path)
    assert encoder.model.config.num_hidden_layers == 2
    assert encoder.model.config.hidden_act == "gelu"
    assert torch.isfinite(encoder.tokens(["a dog on the left"], length=12)).all()


def open_clip_state(*, width: int, layers: int) -> dict[str, torch.Tensor]:
    state = {
        "model.positional_embedding": torch.randn(77, width),
        "model.token_embedding.weight": torch.randn(49408, width),
        "model.ln_final.weight": torch.ones(width),
        "model.ln_final.bias": torch.zeros(width),
        "model.text_projection": torch.randn(width, width),
        "model.logit_scale": torch.zeros(()),
    }
    for layer in range(layers):
        prefix = f"model.transformer.resblocks.{layer}."
        state |= {
            prefix + "attn.in_proj_weight": torch.randn(3 * width, width),
            prefix + "attn.in_proj_bias": torch.randn(3 * width),
            prefix + "attn.out_proj.weight": torch.randn(width, width),
            prefix + "attn.out_proj.bias": torch.randn(width),
            prefix + "mlp.c_fc.weight": torch.randn(4 * width, width),
            prefix + "mlp.c_fc.bias": torch.randn(4 * width),
            prefix + "mlp.c_proj.weight": torch.randn(width, 4 * width),
            prefix + "mlp.c_proj.bias": torch.randn(width),
        }
        for norm in ("ln_1", "ln_2"):
            state |= {f"{prefix}{norm}.weight": torch.ones(width), f"{prefix}{norm}.bias": torch.zeros(width)}
    return state


def test_hub_id_without_network_answers_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(UsageError, match="not in the local cache.*hf download no-such-owner/no-such-model"):
        StableDiffusionBackbone.from_pretrained("no-such-owner/no-such-model")
    assert time.monotonic() - started < 20  # seconds; two are promised, the test machine is shared


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at/all", "There is no nowhere/at/all"),
        ("file.txt", "neither a folder nor a single-file checkpoint"),
        ("empty", "has no unet/config.json"),
        ("weights.safetensors", "is not a Stable Diffusion checkpoint"),
        ("damaged", "cannot be read"),
    ],
)
def test_bad_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no")
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    write_tiny_diffusion(tmp_path / "damaged")
    weights = tmp_path / "damaged" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match=message):
        StableDiffusionBackbone.from_pretrained(source)


def test_old_names_of_the_vae_attention(tmp_path: Path) -> None:
    """The Stable Diffusion 1.5 folder on the hub names its VAE attention query, key, value, proj_attn."""
    from safetensors.torch import load_file

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
