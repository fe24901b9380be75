"""CLIP text encoders inside single-file checkpoints: SD 1.x holds CLIP's own layout, 2.x OpenCLIP's."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from vpd.errors import UsageError, first_line
from vpd.weights.finite import warn_not_finite
from vpd.weights.single_file import SingleFile, listed, mismatches, run_length, shapes_of, with_prefix

_OPEN_CLIP = [
    (r"^transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
]
_LAYER = r"encoder\.layers\.(\d+)\."
_HEAD_WIDTH = 64  # of every CLIP: 12 heads in Stable Diffusion 1.x, 16 in 2.x
_ROOTS = ("embeddings.", "encoder.", "final_layer_norm.")  # of CLIP's names, and of OpenCLIP's:
_OPEN_ROOTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.")
_UNUSED = ("text_projection", "logit_scale", "attn_mask", "position_ids")


def pad_token(single: SingleFile) -> str:
    """What texts are filled up with: `!` where the text encoder is OpenCLIP's, as in Stable Diffusion 2.x folders."""
    return "!" if single.is_open_clip else "<|endoftext|>"


def build_text_model(single: SingleFile) -> CLIPTextModel:
    """The text model of a single-file checkpoint, float32.

    Raises:
        UsageError: If the file holds no text encoder, or one that does not fit.
    """
    single.check_family()
    if single.text_prefix is None:
        raise UsageError(
            f"{single.path} holds no text encoder, which is needed to turn words into prompts. "
            "Take a complete checkpoint or the folder in diffusers layout."
        )
    tensors = with_prefix(single.rest, single.text_prefix)
    tensors = {key: value for key, value in tensors.items() if key.startswith(_ROOTS + _OPEN_ROOTS)}
    act, skip_last = "quick_gelu", 0
    if single.is_open_clip:
        tensors = _from_open_clip(tensors)
        act, skip_last = "gelu", 1  # Stable Diffusion 2.x uses the last but one layer
    tensors = {key: value for key, value in tensors.items() if not key.endswith(_UNUSED)}
    kept = run_length(tensors, _LAYER) - skip_last
    tensors = {key: value for key, value in tensors.items() if not key.startswith(f"encoder.layers.{kept}.")}
    config = _infer_config(tensors, layers=kept, act=act, origin=str(single.path))
    try:
        with torch.device("meta"):  # shapes are compared before any memory is taken
            model = CLIPTextModel(config)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"The text encoder in {single.path} does not fit: {first_line(error)}") from None
    prefix = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    tensors = {prefix + key: value for key, value in tensors.items()}
    if problems := mismatches(shapes_of(tensors), shapes_of(model.state_dict())):
        raise UsageError(f"The text encoder in {single.path} does not fit ({len(problems)} keys):{listed(problems)}")
    warn_not_finite(tensors, single.path)
    model = CLIPTextModel(config)
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True)
    return model


def _infer_config(tensors: dict[str, Tensor], *, layers: int, act: str, origin: str) -> CLIPTextConfig:
    try:
        vocabulary, width = tensors["embeddings.token_embedding.weight"].shape
        inner = tensors["encoder.layers.0.mlp.fc1.weight"].shape[0]
        positions = tensors["embeddings.position_embedding.weight"].shape[0]
    except KeyError as error:
        raise UsageError(f"The text encoder in {origin} is not complete: {error} is missing.") from None
    except (IndexError, ValueError):
        raise UsageError(f"The text encoder in {origin} does not fit: its tensors have odd dimensions.") from None
    heads = max(1, width // _HEAD_WIDTH)
    if width % heads:
        raise UsageError(f"The text encoder in {origin} does not fit: no CLIP has embeddings of {width} channels.")
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        hidden_act=act,
        projection_dim=width,
        eos_token_id=49407,
        bos_token_id=49406,
        pad_token_id=49407,
    )


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names to CLIP's; its fused query, key and value are split."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in _OPEN_CLIP:
            name = re.sub(pattern, replacement, name)
        if match := re.search(r"\.attn\.in_proj_(weight|bias)$", name):
            for part, tensor in zip("qkv", value.chunk(3), strict=True):
                tensors[name.replace(match[0], f".self_attn.{part}_proj.{match[1]}")] = tensor
        else:
            tensors[name] = value
    return tensors
