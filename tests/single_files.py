"""Stable Diffusion in a single file, tiny, as others write them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from vpd.weights.key_names import ldm_unet_names, ldm_vae_name

SHAPES = {"block_out_channels": (32, 64, 64, 64), "norm_num_groups": 32}


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


def text_model(*, act: str, width: int = 128, heads: int = 2) -> CLIPTextModel:
    torch.manual_seed(1)
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=heads,
            hidden_act=act,
            eos_token_id=49407,
            bos_token_id=49406,
        )
    )


def clip_state(model: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The model's tensors under the names of SD 1.x files."""
    return {
        "transformer.text_model." + key.removeprefix("text_model."): value.detach()
        for key, value in model.state_dict().items()
    }


def open_clip_state(model: CLIPTextModel) -> dict[str, torch.Tensor]:
    """The model's tensors under the names of SD 2.x files, with a last layer more, which nothing uses."""
    tensors = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    state = {
        "token_embedding.weight": tensors["embeddings.token_embedding.weight"],
        "positional_embedding": tensors["embeddings.position_embedding.weight"],
        "ln_final.weight": tensors["final_layer_norm.weight"],
        "ln_final.bias": tensors["final_layer_norm.bias"],
        "text_projection": torch.randn(4, 4),
        "logit_scale": torch.zeros(()),
    }
    names = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    layers = model.config.num_hidden_layers
    for layer in range(layers + 1):
        source = f"encoder.layers.{min(layer, layers - 1)}."
        for kind in ("weight", "bias"):
            prefix = f"transformer.resblocks.{layer}."
            fused = [tensors[f"{source}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{prefix}attn.in_proj_{kind}"] = torch.cat(fused)
            state |= {f"{prefix}{theirs}.{kind}": tensors[f"{source}{ours}.{kind}"] for theirs, ours in names.items()}
    return {"model." + key: value.detach() for key, value in state.items()}
