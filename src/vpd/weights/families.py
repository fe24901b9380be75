"""What other models and files there are that look like Stable Diffusion 1.x / 2.x, told by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.atomic import read_json
from vpd.weights.key_names import LDM_UNET

_BY_CHANNELS = {
    3: "a UNet that works on pixels (DeepFloyd IF and the like)",
    5: "a depth-to-image model of Stable Diffusion",
    7: "an upscaler of Stable Diffusion",
    8: "an image-editing or latent upscaling model of Stable Diffusion",
    9: "an inpainting model of Stable Diffusion",
}
"""What a UNet is that takes so many channels beside or instead of four latents."""
_WORDS = "a textual inversion (embeddings of new words)"
_PARTS = {
    r"lora_|\.lora\.|hada_w|lokr_w|oft_blocks": "a LoRA file (changes to a model)",
    r"^(string_to_param|string_to_token|emb_params)\b": _WORDS,
    r"^(control_model|input_hint_block|zero_convs|controlnet_\w+)\.": "a ControlNet",
    r"motion_modules?\.": "an AnimateDiff motion module",
    r"^(ip_adapter|image_proj)\.": "an IP-Adapter",
    r"^(adapter\.)?body\.\d+\.": "a T2I-Adapter",
}
_FAMILIES = {
    r"time_stack\.|time_mixer\b": "Stable Video Diffusion",
    r"\bjoint_blocks\.": "Stable Diffusion 3",
    r"\bdouble_blocks\.": "Flux, or a model built like it",
    r"\badaln_single\.|^(model\.diffusion_model\.)?[ty]_(block|embedder)\.": "PixArt",
    r"\b(clip_txt_mapper|clip_txt_pooled_mapper|effnet_mapper)\.": "Stable Cascade",
    r"\bencoder_hid_proj\.": "DeepFloyd IF",
    r"^(embedder\.model\.visual|noise_augmentor)\.": "Stable unCLIP",
    r"^conditioner\.embedders\.1\.|^(model\.diffusion_model\.label_emb\.0|add_embedding)\.|"
    r"^model\.diffusion_model\.\w+\.[\d.]+\.transformer_blocks\.[1-9]": "Stable Diffusion XL",
    r"^(model\.diffusion_model\.)?((single_)?transformer_blocks|double_layers|blocks|layers)\.\d": "a transformer",
}
_ALONE = {
    r"^model\.diffusion_model\.": "a UNet alone, without autoencoder",
    r"^(conv_in|down_blocks|time_embedding)\.": "the UNet out of a folder in diffusers layout",
    r"^(first_stage_model|vae|encoder\.(down|down_blocks|mid|conv_in)|post_quant_conv)\.": "an autoencoder (VAE) alone",
    r"^(cond_stage_model|text_model|te\d?|text_encoders?)\.|\btransformer\.resblocks\.": "a text encoder alone",
}
_WIDTHS = (768, 1024, 1280, 2048)  # of text embeddings
_CLASSES = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3|SD3": "Stable Diffusion 3",
    "StableDiffusion(Latent)?Upscale": _BY_CHANNELS[7],
    "StableDiffusionDepth2Img": _BY_CHANNELS[5],
    "StableDiffusionInpaint": _BY_CHANNELS[9],
    "StableDiffusionInstructPix2Pix": "an image-editing model of Stable Diffusion (InstructPix2Pix)",
    "StableUnCLIP|UnCLIP": "Stable unCLIP",
    "StableVideo|UNetSpatioTemporal": "Stable Video Diffusion",
    "StableCascade": "Stable Cascade",
    "Wuerstchen": "Wuerstchen",
    "Flux": "Flux",
    "PixArt": "PixArt",
    "IF": "DeepFloyd IF",
    "Kandinsky": "Kandinsky",
    "LatentConsistency": "a latent consistency model",
    "AnimateDiff|MotionAdapter|UNetMotion": "AnimateDiff",
    "TextToVideo|UNet3D": "a text-to-video model",
    r"\w*ControlNetModel": "a ControlNet",
    r"T2IAdapter|MultiAdapter": "a T2I-Adapter",
}
"""Begin of a class name in `model_index.json` or `config.json` -> what it is of."""
_COMPONENTS = {
    "UNet2DConditionModel": "the UNet out of a folder in diffusers layout",
    "AutoencoderKL": "an autoencoder (VAE) alone",
    "CLIPTextModel": "a text encoder alone",
}
_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
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
_DIFFUSERS_TEXT_WIDTH = 1280  # of a UNet whose configuration does not tell
_READ_HERE = "of the Stable Diffusion 1.x / 2.x family that is read here"
REMEDY = "Take a model such as stable-diffusion-v1-5/stable-diffusion-v1-5."
"""What to do with one that is not read here."""


def foreign_file(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a weight file is that is no whole Stable Diffusion 1.x / 2.x, to stand after "is"; empty = nothing known.

    Args:
        shapes: Of its tensors, by plain name.
    """
    names = "\n".join(shapes)
    is_word = len(shapes) in (1, 2) and all(len(shape) in (1, 2) and shape[-1] in _WIDTHS for shape in shapes.values())
    if part := _WORDS if is_word else _first(_PARTS, names):
        return _part(part)
    if family := _first(_FAMILIES, names):
        return _family(family)
    first = shapes.get(f"{LDM_UNET}input_blocks.0.0.weight", ())
    if len(first) == 4 and first[1] in _BY_CHANNELS:
        return _family(_BY_CHANNELS[first[1]])
    is_whole = f"\n{LDM_UNET}" in f"\n{names}" and "\nfirst_stage_model." in f"\n{names}"
    alone = "" if is_whole else _first(_ALONE, names)
    return _part(alone) if alone else ""


def refuse_foreign_folder(folder: Path) -> None:
    """Raise where a folder is, by its configurations, of another family or two models; quiet where none tells.

    Raises:
        UsageError: Naming the family, or the two widths.
    """
    unet, vae, text = (folder / part / "config.json" for part in ("unet", "vae", "text_encoder"))
    if unet.is_file():
        config = _object(unet)
        check_unet(config, _object(vae) if vae.is_file() else None, folder=folder)
        made = _object(text).get("hidden_size") if text.is_file() else None
        needed = config.get("cross_attention_dim", _DIFFUSERS_TEXT_WIDTH)
        if isinstance(made, int) and isinstance(needed, int):
            check_text_width(made, needed, folder)
    elif foreign := _without_unet(folder):
        raise UsageError(f"{folder} is {foreign}. {REMEDY}")


def check_text_width(made: int, needed: int, origin: str | Path) -> None:
    """Raise unless a text encoder and a UNet fit each other.

    Args:
        made: Channels of the text encoder's embeddings.
        needed: Channels of the text that the UNet was trained with.
        origin: Where the text encoder is from.

    Raises:
        UsageError: If these differ.
    """
    if made != needed:
        raise UsageError(
            f"{origin}: its text encoder makes {made} channels, UNet needs {needed}: they are of two models. Take the "
            "text encoder of the diffusion model that the UNet is from (768 channels in Stable Diffusion 1.x, 1024 in "
            "2.x)."
        )


def _without_unet(folder: Path) -> str:
    """As `foreign_file`, of a folder without UNet."""
    index, own = (_class_name(folder / name) for name in ("model_index.json", "config.json"))
    if family := _class_family(index) or _class_family(own):
        return _family(family)
    if (folder / "transformer").is_dir() or "Transformer" in own:
        return _family(f"a diffusion transformer ({index or own or 'it has a folder transformer'})")
    if own in _COMPONENTS:
        return _part(_COMPONENTS[own])
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        return _part("a LoRA (changes to a model)")
    return _family(f"a {index}") if index and index != "StableDiffusionPipeline" else ""


def check_unet(config: Mapping[str, Any], vae: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> None:
    """Refuse architectures that the walk does not cover, before any weight is read.

    Args:
        config: Of the UNet.
        vae: Configuration of the autoencoder, if there is one.
        folder: Where they lie, if they do.

    Raises:
        UsageError: If the UNet is not of the Stable Diffusion 1.x / 2.x family, or takes more than latents.
    """
    strange = [f"{name}={config[name]!r}" for name in _MUST_BE_UNSET if config.get(name) not in _HARMLESS]
    blocks = (*(config.get("down_block_types") or ()), *(config.get("up_block_types") or ()))
    strange += [str(name) for name in blocks if name not in _BLOCKS]
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") != "UNetMidBlock2DCrossAttn":
        strange.append(f"mid_block_type={config['mid_block_type']!r}")
    channels = config.get("in_channels", 4)
    latents = 4 if vae is None else vae.get("latent_channels", 4)
    if not strange and channels != latents:
        strange.append(f"it takes {channels} channels, but the autoencoder makes {latents}")
    if strange:
        index = _class_name(folder / "model_index.json") if folder else ""
        family = _class_family(index) or _unet_family(config) or _BY_CHANNELS.get(channels, "a UNet")
        told = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        raise UsageError(f"{folder or 'This UNet'} is {_family(family)} ({told}). {REMEDY}")


def _unet_family(config: Mapping[str, Any]) -> str:
    if family := _class_family(str(config.get("_class_name", ""))):
        return family
    if config.get("addition_embed_type") == "text_time":
        return "Stable Diffusion XL"
    if config.get("addition_embed_type") == "text":
        return "DeepFloyd IF"
    if str(config.get("addition_embed_type") or "").startswith(("image", "text_image")):
        return "Kandinsky"
    return "a latent consistency model" if config.get("time_cond_proj_dim") else ""


def _family(name: str) -> str:
    return f"{name}, which is not {_READ_HERE}"


def _part(name: str) -> str:
    return f"{name}, not a complete diffusion model"


def _first(table: Mapping[str, str], names: str) -> str:
    """What the first pattern that is found in the names, one a line, stands for; empty = none."""
    return next((what for pattern, what in table.items() if re.search(pattern, names, re.MULTILINE)), "")


def _class_family(name: str) -> str:
    return next((what for pattern, what in _CLASSES.items() if re.match(pattern, name)), "")


def _class_name(path: Path) -> str:
    contents = read_json(path) if path.is_file() else None
    return str(contents.get("_class_name", "")) if isinstance(contents, dict) else ""


def _object(path: Path) -> dict[str, Any]:
    contents = read_json(path)
    if not isinstance(contents, dict):
        raise UsageError(f"{path} holds a {type(contents).__name__}, not a configuration.")
    return contents
