"""CLIP text encoders inside single-file checkpoints: SD 1.x holds CLIP's own layout, 2.x OpenCLIP's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from vpd.errors import UsageError

if TYPE_CHECKING:
    from vpd.reference.single_file import SingleFile

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
_UNUSED = ("text_projection", "logit_scale", "attn_mask", "position_ids")


def build_text_model(single: SingleFile) -> CLIPTextModel:
    """The text model of a single-file checkpoint, float32.

    Raises:
        UsageError: If the file holds no text encoder, or one that does not fit.
    """
    clip = {key.removeprefix("transformer.text_model."): value for key, value in single.text.items()}
    if "embeddings.token_embedding.weight" in clip:
        tensors, heads_dim, act, skip_last = clip, 64, "quick_gelu", 0
    elif any(key.startswith("model.transformer.resblocks.") for key in single.text):
        tensors = _from_open_clip({key.removeprefix("model."): value for key, value in single.text.items()})
        heads_dim, act, skip_last = 64, "gelu", 1  # Stable Diffusion 2.x uses the last but one layer
    else:
        raise UsageError(
            f"{single.path} holds no text encoder, which is needed to turn words into prompts. "
            "Take a complete checkpoint or the folder in diffusers layout."
        )
    tensors = {key: value for key, value in tensors.items() if not key.endswith(_UNUSED)}
    layers = 1 + max(int(match[1]) for key in tensors if (match := re.match(r"encoder\.layers\.(\d+)\.", key)))
    kept = layers - skip_last
    tensors = {
        key: value
        for key, value in tensors.items()
        if not ((match := re.match(r"encoder\.layers\.(\d+)\.", key)) and int(match[1]) >= kept)
    }
    vocabulary, width = tensors["embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=kept,
        num_attention_heads=max(1, width // heads_dim),
        max_position_embeddings=tensors["embeddings.position_embedding.weight"].shape[0],
        hidden_act=act,
        projection_dim=width,
        eos_token_id=49407,
        bos_token_id=49406,
        pad_token_id=49407,
    )
    model = CLIPTextModel(config)
    prefix = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    try:
        model.load_state_dict({prefix + key: value.float() for key, value in tensors.items()}, strict=True)
    except RuntimeError as error:
        raise UsageError(f"The text encoder in {single.path} does not fit: {error}") from None
    return model


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names to CLIP's; its fused query, key and value are split."""
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in _OPEN_CLIP:
            name = re.sub(pattern, replacement, name)
        if match := re.search(r"\.attn\.in_proj_(weight|bias)$", name):
            parts = torch.chunk(value, 3, dim=0)
            for part, tensor in zip("qkv", parts, strict=True):
                tensors[name.replace(match[0], f".self_attn.{part}_proj.{match[1]}")] = tensor
        else:
            tensors[name] = value
    return tensors
