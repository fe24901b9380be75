"""Where diffusion weights come from: a folder in diffusers layout, a hub id, or a single LDM file."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from vpd.backbones.unet_walk import check_unet
from vpd.errors import UsageError
from vpd.reference.single_file import read_single_file

logger = logging.getLogger(__name__)

SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BACKBONE_FILES = ["unet/config.json", "unet/diffusion_pytorch_model*.safetensors*", "vae/config.json"]
_BACKBONE_FILES += ["vae/diffusion_pytorch_model*.safetensors*", "model_index.json"]
_TEXT_FILES = ["text_encoder/config.json", "text_encoder/model*.safetensors*", "tokenizer/*"]
_VARIANTS = ["*.fp16.*", "*.non_ema.*"]


def find_source(source: str | Path, *, with_text: bool = False) -> Path:
    """The local folder or file behind a source; downloads what is needed of a hub id that is not cached.

    Args:
        source: Folder, single file or hub id.
        with_text: Whether the text encoder and tokenizer are needed as well.

    Raises:
        UsageError: If there is no such thing, or a hub id is neither cached nor reachable.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in SINGLE_FILE_SUFFIXES):
        return path
    if path.is_file():
        raise UsageError(
            f"{path} is neither a folder nor a single-file checkpoint ({', '.join(SINGLE_FILE_SUFFIXES)})."
        )
    if not _HUB_ID.fullmatch(str(source)):
        raise UsageError(
            f"There is no {source}. Give a folder in diffusers layout, a single file "
            f"({', '.join(SINGLE_FILE_SUFFIXES)}) or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
    return download(str(source), _BACKBONE_FILES + _TEXT_FILES * with_text, needed="unet/config.json")


def download(hub_id: str, patterns: list[str], *, needed: str) -> Path:
    """Local snapshot of a hub repository: the cached one if it has `needed`, else a download.

    Raises:
        UsageError: If it is neither cached nor reachable.
    """
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
        if (folder / needed).is_file():
            return folder
    except LocalEntryNotFoundError:
        pass
    logger.info("Downloading %s from the hub.", hub_id)
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=_VARIANTS, etag_timeout=2))
    except RepositoryNotFoundError:
        raise UsageError(f"The hub has no {hub_id}, or it needs a login (`hf auth login`). Check the name.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UsageError(
            f"{hub_id} is not a folder here, not in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}). With network: `hf download {hub_id}`; or pass a local folder or file."
        ) from None
    if not (folder / needed).is_file():
        raise UsageError(f"{hub_id} on the hub has no {needed}: it is not a model that can be used here.")
    return folder


def load_unet_and_vae(source: str | Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and VAE of a Stable Diffusion 1.x or 2.x model, in float32.

    Raises:
        UsageError: If a part is missing, damaged or of another family.
    """
    path = find_source(source)
    if path.is_file():
        parts = read_single_file(path)
        return parts.build_unet(), parts.build_vae()
    for part in ("unet", "vae"):
        if not (path / part / "config.json").is_file():
            raise UsageError(
                f"{path} has no {part}/config.json: it is not a diffusion model in diffusers layout. "
                "It needs the folders unet and vae (and text_encoder and tokenizer for prompts)."
            )
    try:
        check_unet(json.loads((path / "unet" / "config.json").read_text(encoding="utf-8")))
        options = {"local_files_only": True, "torch_dtype": torch.float32}
        return (
            UNet2DConditionModel.from_pretrained(path, subfolder="unet", **options),
            AutoencoderKL.from_pretrained(path, subfolder="vae", **options),
        )
    except UsageError:
        raise
    except Exception as error:  # diffusers raises what its readers raise; all of it means: these files are bad
        raise UsageError(f"The diffusion model in {path} cannot be read: {str(error).splitlines()[0]}") from error
