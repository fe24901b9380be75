"""Names of weights: diffusers' and ours on one side, LDM's and the published VPD checkpoints' on the other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from vpd.config import Task

_UNET, _VAE = "backbone.unet.", "backbone.vae."
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
ENCODER_PREFIX: dict[Task, str] = {"segment": "", "refer": "", "depth": "encoder."}
"""Begin of the names of everything before the head in a published checkpoint."""
PUBLISHED_UNET, PUBLISHED_VAE = "unet.unet.diffusion_model.", "encoder_vq."
"""What follows then for the two parts of the diffusion model."""
_TEXT = {
    "adapter.gamma": "gamma",
    "adapter.mlp.": "text_adapter.fc.",
    "class_embeddings": "class_embeddings",
    "scene_embeddings": "class_embeddings",
}
_HEADS: dict[Task, list[tuple[str, str]]] = {
    "segment": [
        (r"head\.laterals\.(\d)\.", r"neck.lateral_convs.\1.conv."),
        (r"head\.outputs\.(\d)\.", r"neck.fpn_convs.\1.conv."),
        (r"head\.towers\.(\d)\.(\d)\.conv\.", r"decode_head.scale_heads.\1.\2.conv."),
        (r"head\.towers\.(\d)\.(\d)\.norm\.", r"decode_head.scale_heads.\1.\2.bn."),
        (r"head\.classifier\.", "decode_head.conv_seg."),
    ],
    "refer": [
        *((rf"head\.stages\.{stage}\.conv(\d)\.", rf"classifier.conv\1_{4 - stage}.") for stage in range(3)),
        *((rf"head\.stages\.{stage}\.norm(\d)\.", rf"classifier.bn\1_{4 - stage}.") for stage in range(3)),
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
_DROPPED = re.compile(
    r"sd_model\.(betas|alphas_cumprod_prev|posterior_(variance|log_variance_clipped|mean_coef[12]))"
    r"|sd_model\.(sqrt_|sqrt_one_minus_|log_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod"
    r"|(encoder\.)?encoder_vq\.(decoder|post_quant_conv|loss)\..+"
    r"|(encoder\.)?unet\.unet\.diffusion_model\.out\.[02]\.(weight|bias)"
)


def is_dropped(key: str) -> bool:
    """Whether no model of ours needs a published key: diffusion schedule, VAE decoder, the UNet's last layers."""
    return _DROPPED.fullmatch(key) is not None


def ldm_unet_names(keys: Collection[str]) -> dict[str, str]:
    """Diffusers key -> LDM key for all keys of one UNet; layer counts and attention are read off the keys."""
    resnets = [match for key in keys if (match := re.match(r"down_blocks\.\d+\.resnets\.(\d+)\.", key))]
    layers = 1 + max((int(match[1]) for match in resnets), default=0)
    attentions = [match for key in keys if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", key))]
    with_attention = {int(match[1]) for match in attentions}
    return {key: _ldm_unet_name(key, layers, with_attention) for key in keys}


def _ldm_unet_name(key: str, layers: int, with_attention: set[int]) -> str:
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
    return f"{_RESNET[rest[0]]}.{rest[1]}" if kind == "resnets" else ".".join(rest)


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
    unet = ldm_unet_names([key.removeprefix(_UNET) for key in keys if key.startswith(_UNET)])
    return {key: _published_name(task, key, unet) for key in keys}


def _published_name(task: Task, key: str, unet: dict[str, str]) -> str:
    if key.startswith(_UNET):
        return ENCODER_PREFIX[task] + PUBLISHED_UNET + unet[key.removeprefix(_UNET)]
    if key.startswith(_VAE):
        return ENCODER_PREFIX[task] + PUBLISHED_VAE + ldm_vae_name(key.removeprefix(_VAE))
    for ours, theirs in _TEXT.items():
        if key.startswith(ours):
            return ENCODER_PREFIX[task] + theirs + key.removeprefix(ours)
    for pattern, replacement in _HEADS[task]:
        renamed, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return renamed
    raise KeyError(f"{key} has no counterpart in the published {task} checkpoint")
