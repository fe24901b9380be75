"""Which UNets this library knows: those of Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import Any

from vpd.errors import UsageError

_DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")
_MUST_BE_UNSET = (
    "class_embed_type",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "num_class_embeds",
    "dual_cross_attention",
    "only_cross_attention",
    "attention_type",
    "conv_in_kernel",
    "center_input_sample",
    "cross_attention_norm",
)
_HARMLESS = (None, False, "default", 3)


def check_unet(config: dict[str, Any]) -> None:
    """Refuse architectures that the walk does not cover, before any weight is read.

    Raises:
        UsageError: If the UNet is not of the Stable Diffusion 1.x / 2.x family.
    """
    strange = [
        f"{name}={config[name]!r}" for name in _MUST_BE_UNSET if config.get(name) not in _HARMLESS and name in config
    ]
    down, up = config.get("down_block_types", ()), config.get("up_block_types", ())
    strange += [name for name in (*down, *up) if name not in (*_DOWN_BLOCKS, *_UP_BLOCKS)]
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") != "UNetMidBlock2DCrossAttn":
        strange.append(f"mid_block_type={config['mid_block_type']!r}")
    if strange:
        raise UsageError(
            f"This UNet is not of the Stable Diffusion 1.x / 2.x family: {', '.join(map(str, strange))}. "
            "Use a model such as stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
