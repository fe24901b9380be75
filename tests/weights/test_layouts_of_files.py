"""Weight files under the names that programs give them: variants, shards, wrappers, suffixes, prefixes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from single_files import SHAPES, clip_state, open_clip_state, text_model, write_single_file
from tiny import tiny_unet, tiny_vae, write_tiny_diffusion
from vpd import StableDiffusionBackbone, UsageError
from vpd.prompts.encoder import TextEncoder
from vpd.weights.folder_files import weight_files
from vpd.weights.sources import load_vae

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def rename(path: Path, stem: str) -> None:
    path.rename(path.with_name(f"{stem}.fp16.safetensors"))


def in_float16(path: Path, stem: str) -> None:
    save_file({key: value.half() for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    rename(path, stem)


def in_shards(path: Path, stem: str, variant: str = "") -> None:
    tensors = load_file(path)
    path.unlink()
    parts = {f"{stem}-{number:05}-of-00002{variant}.safetensors": list(tensors)[number - 1 :: 2] for number in (1, 2)}
    for name, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, path.with_name(name), metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, keys in parts.items() for key in keys}}
    path.with_name(f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))


def in_shards_of_variant(path: Path, stem: str) -> None:
    in_shards(path, stem, ".fp16")


def parallel(path: Path, stem: str) -> None:
    save_file({f"module._orig_mod.{key}": value for key, value in load_file(path).items()}, path)


def in_capitals(path: Path, stem: str) -> None:
    path.rename(path.with_suffix(".SAFETENSORS"))


@pytest.mark.parametrize("change", [rename, in_capitals])
def test_old_names_of_the_vae_in_a_variant(tmp_path: Path, change: Callable) -> None:
    """As in the half-precision files of Stable Diffusion 1.5."""
    folder = write_tiny_diffusion(tmp_path / "sd")
    path, old = folder / "vae" / f"{STEMS['vae']}.safetensors", {}
    wanted = load_vae(folder).state_dict()
    for key, value in load_file(path).items():
        for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        old[key] = value
    save_file(old, path, metadata={"format": "pt"})
    change(path, STEMS["vae"])
    found = load_vae(folder).state_dict()
    assert "encoder.mid_block.attentions.0.query.weight" in old
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("change", [rename, in_shards, in_shards_of_variant, parallel, in_capitals])
def test_a_folder_is_the_same_whatever_its_files_are_called(tmp_path: Path, change: Callable) -> None:
    folder = write_tiny_diffusion(tmp_path / "sd")
    wanted = StableDiffusionBackbone.from_pretrained(folder).state_dict()
    words = TextEncoder.from_pretrained(folder).pooled(["a dog"])
    for part, stem in STEMS.items():
        change(folder / part / f"{stem}.safetensors", stem)
    found = StableDiffusionBackbone.from_pretrained(folder).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert torch.equal(TextEncoder.from_pretrained(folder).pooled(["a dog"]), words)


def test_a_variant_in_half_precision_is_read_into_float32(tmp_path: Path) -> None:
    folder = write_tiny_diffusion(tmp_path / "sd")
    wanted = StableDiffusionBackbone.from_pretrained(folder).state_dict()
    for part, stem in STEMS.items():
        in_float16(folder / part / f"{stem}.safetensors", stem)
    found = StableDiffusionBackbone.from_pretrained(folder).state_dict()
    assert all(found[key].dtype == torch.float32 for key in wanted)
    assert all(torch.equal(found[key], wanted[key].half().float()) for key in wanted)
    assert TextEncoder.from_pretrained(folder).pooled(["a dog"]).dtype == torch.float32


@pytest.mark.parametrize(
    ("names", "variant", "files"),
    [
        (["model.fp16.safetensors", "model.safetensors"], "", ["model.safetensors"]),
        (["model.non_ema.safetensors", "model.fp16.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["model-00001-of-00002.safetensors", "model.bf16.safetensors"], "bf16", ["model.bf16.safetensors"]),
    ],
)
def test_which_files_are_taken(names: list[str], variant: str, files: list[str]) -> None:
    assert weight_files(names, "model") == (variant, files)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = write_tiny_diffusion(tmp_path / "sd")
    in_shards(folder / "unet" / "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model")
    (folder / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match="unet cannot be read: .*not all of its shards"):
        StableDiffusionBackbone.from_pretrained(folder)


CLIP_PREFIXES = [
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.text_model.",
    "text_encoder.text_model.",
    "text_encoders.clip_l.transformer.text_model.",
    "te.",
    "module.cond_stage_model.transformer.text_model.",
]
OPEN_CLIP_PREFIXES = ["cond_stage_model.model.", "conditioner.embedders.0.model.", "te."]


@pytest.mark.parametrize(
    ("prefix", "is_open"),
    [*((prefix, False) for prefix in CLIP_PREFIXES), *((prefix, True) for prefix in OPEN_CLIP_PREFIXES)],
)
def test_a_text_encoder_is_found_under_every_prefix(tmp_path: Path, prefix: str, is_open: bool) -> None:
    model = text_model(act="gelu" if is_open else "quick_gelu", width=16, heads=1).eval()
    state = open_clip_state(model) if is_open else clip_state(model)
    own = "model." if is_open else "transformer.text_model."
    path = write_single_file(tmp_path / "sd.safetensors", tiny_unet(**SHAPES, attention_head_dim=8), wide_vae(), {})
    text = {prefix + key.removeprefix(own): value.clone() for key, value in state.items()}
    save_file({**load_file(path), **text}, path)
    encoder = TextEncoder.from_pretrained(path)
    assert encoder.tokenizer.pad_token == ("!" if is_open else "<|endoftext|>")
    ids = encoder.tokenizer(["zebra"], return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(encoder.model(ids).last_hidden_state, model(ids).last_hidden_state)


def wide_vae():
    return tiny_vae(block_out_channels=(32, 32, 64, 64), norm_num_groups=32)


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".CKPT", ".pt"])
def test_suffixes_and_wrappers_of_single_files(tmp_path: Path, suffix: str) -> None:
    unet = tiny_unet(**SHAPES, attention_head_dim=8)
    plain = write_single_file(tmp_path / "sd.safetensors", unet, wide_vae(), {})
    wrapped = {key.replace("model.", "model._orig_mod.", 1): value for key, value in load_file(plain).items()}
    path = tmp_path / f"other{suffix}"
    if suffix == ".SAFETENSORS":
        save_file(wrapped, path)
    else:
        torch.save({"state_dict": wrapped}, path)
    found, wanted = (StableDiffusionBackbone.from_pretrained(each).state_dict() for each in (path, plain))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_of_many_keys_that_do_not_fit_three_are_named(tmp_path: Path) -> None:
    path = write_single_file(tmp_path / "sd.safetensors", tiny_unet(**SHAPES, attention_head_dim=8), wide_vae(), {})
    state = load_file(path)
    save_file({key: value for key, value in state.items() if "output_blocks" not in key}, path)
    with pytest.raises(UsageError, match=r"does not fit \(\d+ keys\)") as caught:
        StableDiffusionBackbone.from_pretrained(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5 and lines[-1].strip().startswith("and ") and lines[-1].endswith(" more")
