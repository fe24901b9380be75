"""Names of weights: diffusers' and ours on one side, LDM's and the published VPD checkpoints' on the other."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vpd.config import Task

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_STEMS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

LDM_UNET = "model.diffusion_model."
"""Begin of the names of the UNet's weights in a single file of Stable Diffusion."""
UNET_PREFIX: dict[Task, str] = {
    "segment": "unet.unet.diffusion_model.",
    "refer": "unet.unet.diffusion_model.",
    "depth": "encoder.unet.unet.diffusion_model.",
}
VAE_PREFIX: dict[Task, str] = {
    "segment": "encoder_vq.",
    "refer": "encoder_vq.",
    "depth": "encoder.encoder_vq.",
}
_ENCODER_PREFIX: dict[Task, str] = {"segment": "", "refer": "", "depth": "encoder."}
_TEXT: dict[str, str] = {"adapter.gamma": "gamma", "adapter.mlp.": "text_adapter.fc."}
_TEXT |= {"class_embeddings": "class_embeddings", "scene_embeddings": "class_embeddings"}
_HEADS: dict[Task, list[tuple[str, str]]] = {
    "segment": [
        (r"head\.laterals\.(\d)\.", r"neck.lateral_convs.\1.conv."),
        (r"head\.outputs\.(\d)\.", r"neck.fpn_convs.\1.conv."),
        (r"head\.towers\.(\d)\.(\d)\.conv\.", r"decode_head.scale_heads.\1.\2.conv."),
        (r"head\.towers\.(\d)\.(\d)\.norm\.", r"decode_head.scale_heads.\1.\2.bn."),
        (r"head\.classifier\.", "decode_head.conv_seg."),
    ],
    "refer": [
        (r"head\.stages\.0\.conv(\d)\.", r"classifier.conv\1_4."),
        (r"head\.stages\.0\.norm(\d)\.", r"classifier.bn\1_4."),
        (r"head\.stages\.1\.conv(\d)\.", r"classifier.conv\1_3."),
        (r"head\.stages\.1\.norm(\d)\.", r"classifier.bn\1_3."),
        (r"head\.stages\.2\.conv(\d)\.", r"classifier.conv\1_2."),
        (r"head\.stages\.2\.norm(\d)\.", r"classifier.bn\1_2."),
        (r"head\.classifier\.", "classifier.conv1_1."),
    ],
    "depth": [
        (r"head\.reduce_fine\.", "encoder.layer1."),
        (r"head\.reduce_middle\.", "encoder.layer2."),
        (r"head\.fuse\.", "encoder.out_layer."),
        (r"head\.deconvs\.", "decoder.deconv_layers."),
        (r"head\.widen\.", "decoder.conv_layers."),
        (r"head\.predictor\.", "last_layer_depth."),
    ],
}
SIGNS: dict[Task, str] = {
    "segment": "decode_head.conv_seg.weight",
    "refer": "classifier.conv1_1.weight",
    "depth": "decoder.deconv_layers.0.weight",
}
"""A key that tells for which task a published checkpoint is."""
_SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
_DROPPED = re.compile(
    rf"sd_model\.({'|'.join(_SCHEDULE)})"
    r"|(encoder\.)?encoder_vq\.(decoder|post_quant_conv|loss)\..+"
    r"|(encoder\.)?unet\.unet\.diffusion_model\.out\.[02]\.(weight|bias)"
)


def is_dropped(key: str) -> bool:
    """Whether no model of ours needs a published key: diffusion schedule, VAE decoder, the UNet's last layers."""
    return _DROPPED.fullmatch(key) is not None


def ldm_unet_names(keys: Iterable[str]) -> dict[str, str]:
    """Diffusers key -> LDM key for all keys of one UNet; layer counts and attention are read off the keys."""
    keys = list(keys)
    found = [int(match[1]) for key in keys if (match := re.match(r"down_blocks\.\d+\.resnets\.(\d+)\.", key))]
    layers = 1 + max(found, default=0)
    with_attention = {int(m[1]) for key in keys if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", key))}
    return {key: _ldm_unet_name(key, layers=layers, with_attention=with_attention) for key in keys}


def _ldm_unet_name(key: str, *, layers: int, with_attention: set[int]) -> str:
    stem, _, last = key.rpartition(".")
    if stem in _UNET_STEMS:
        return f"{_UNET_STEMS[stem]}.{last}"
    side, *path = key.split(".")
    if side == "mid_block":
        kind, index, *rest = path
        position = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{position}.{_inside(kind, rest)}"
    block, kind, index, *rest = path
    if side == "down_blocks":
        first = int(block) * (layers + 1) + 1
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{rest[-1]}"
        return f"input_blocks.{first + int(index)}.{int(kind == 'attentions')}.{_inside(kind, rest)}"
    first = int(block) * (layers + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{1 + (int(block) in with_attention)}.conv.{rest[-1]}"
    return f"output_blocks.{first + int(index)}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind: str, rest: list[str]) -> str:
    """Name inside a block: residual blocks differ, transformers are named alike."""
    if kind == "resnets":
        return f"{_RESNET[rest[0]]}.{rest[1]}"
    return ".".join(rest)


def ldm_vae_name(key: str) -> str:
    """Diffusers key -> LDM key of the VAE's encoder side."""
    key = re.sub(r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2.", key)
    key = re.sub(r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", key)
    key = re.sub(r"^encoder\.mid_block\.resnets\.(\d)\.", lambda m: f"encoder.mid.block_{int(m[1]) + 1}.", key)
    if match := re.match(r"^encoder\.mid_block\.attentions\.0\.(.+)\.(weight|bias)$", key):
        return f"encoder.mid.attn_1.{_VAE_ATTENTION[match[1]]}.{match[2]}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("encoder.conv_norm_out", "encoder.norm_out")


def published_names(task: Task, keys: Iterable[str]) -> dict[str, str]:
    """Our key -> key of the published checkpoint of the same task, for all keys of one model.

    Raises:
        KeyError: If a key is not one of a model with the published head.
    """
    keys = list(keys)
    unet = ldm_unet_names(key.removeprefix("backbone.unet.") for key in keys if key.startswith("backbone.unet."))
    return {key: _published_name(task, key, unet) for key in keys}


def _published_name(task: Task, key: str, unet: dict[str, str]) -> str:
    if key.startswith("backbone.unet."):
        return UNET_PREFIX[task] + unet[key.removeprefix("backbone.unet.")]
    if key.startswith("backbone.vae."):
        return VAE_PREFIX[task] + ldm_vae_name(key.removeprefix("backbone.vae."))
    for ours, theirs in _TEXT.items():
        if key.startswith(ours):
            return _ENCODER_PREFIX[task] + theirs + key.removeprefix(ours)
    for pattern, replacement in _HEADS[task]:
        renamed, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return renamed
    raise KeyError(f"{key} has no counterpart in the published {task} checkpoint")
