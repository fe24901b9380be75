"""Where diffusion weights come from (folder in diffusers layout, hub id, single LDM file): found, loaded, checked."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, validate_repo_id
from transformers.utils import logging as transformers_logging

from vpd.errors import UsageError, first_line
from vpd.files.atomic import read_json
from vpd.weights.shipped import WORLD, shipped_diffusion
from vpd.weights.single_file import read_single_file

logger = logging.getLogger(__name__)

SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt")
_HUB_PATIENCE_S = 2.0
_BACKBONE_FILES = ["unet/config.json", "unet/diffusion_pytorch_model*.safetensors*", "vae/config.json"]
_BACKBONE_FILES += ["vae/diffusion_pytorch_model*.safetensors*", "model_index.json"]
_TEXT_FILES = ["text_encoder/config.json", "text_encoder/model*.safetensors*", "tokenizer/*"]
_NEEDED = (
    "unet/config.json",
    "unet/diffusion_pytorch_model*.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model*.safetensors",
)
_NEEDED_TEXT = (
    "text_encoder/config.json",
    "text_encoder/model*.safetensors",
    "tokenizer/vocab.json|tokenizer/tokenizer.json",
    "tokenizer/merges.txt|tokenizer/tokenizer.json",
)
_VARIANTS = ["*.fp16.*", "*.non_ema.*"]

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


def find_source(source: str | Path, *, with_text: bool = False) -> Path:
    """The local folder or file behind a source; downloads what is needed of a hub id that is not cached.

    Args:
        source: Folder, single file, hub id, or `world` for the small model that comes with the package.
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
    if str(source) == WORLD:
        return shipped_diffusion()
    if not is_hub_id(source):
        raise UsageError(
            f"There is no {source}. Give a folder in diffusers layout, a single file "
            f"({', '.join(SINGLE_FILE_SUFFIXES)}), a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5, or "
            f"{WORLD}, the small model that comes with the package."
        )
    return download(str(source), _BACKBONE_FILES + _TEXT_FILES * with_text, needed=_NEEDED + _NEEDED_TEXT * with_text)


def is_hub_id(source: str | Path) -> bool:
    """Whether a source has the form of a hub id, `owner/name`."""
    try:
        validate_repo_id(str(source))
    except HFValidationError:
        return False
    return str(source).count("/") == 1 and not str(source).startswith((".", "/", "~"))


def download(hub_id: str, patterns: list[str], *, needed: tuple[str, ...]) -> Path:
    """Local snapshot of a hub repository: the cached one if all that is needed is there, else a download.

    Args:
        hub_id: `owner/name`.
        patterns: Globs of the files to download.
        needed: Globs of which each must have a file; `a|b` = either will do.

    Raises:
        UsageError: If it is neither cached nor reachable, or lacks what is needed.
    """
    options: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": _VARIANTS}
    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True, **options))
        if not _lacking(folder, needed):
            return folder
    except LocalEntryNotFoundError:
        pass
    logger.info("Downloading %s from the hub.", hub_id)
    try:
        _ask_hub(hub_id)
        folder = Path(snapshot_download(hub_id, etag_timeout=_HUB_PATIENCE_S, **options))
    except RepositoryNotFoundError:
        raise UsageError(f"The hub has no {hub_id}, or it needs a login (`hf auth login`). Check the name.") from None
    except Exception as error:  # the HTTP library's own errors differ between versions of huggingface_hub
        raise UsageError(
            f"{hub_id} is not a folder here, not in the local cache (or only in part), and the hub cannot be reached "
            f"({type(error).__name__}). With network: `hf download {hub_id}`; or pass a local folder or file."
        ) from None
    if lacking := _lacking(folder, needed):
        raise UsageError(
            f"{hub_id} on the hub has no {lacking.replace('|', ' or ')}: it is not a model that can be used here. "
            "Weights must be safetensors; convert pickled ones first."
        )
    return folder


def _lacking(folder: Path, needed: tuple[str, ...]) -> str:
    """The first of the globs that no file in the folder fits; empty if there is none such."""
    for globs in needed:
        found = (path for glob in globs.split("|") for path in folder.glob(glob) if path.is_file())
        if all(any(fnmatch(path.name, variant) for variant in _VARIANTS) for path in found):
            return globs
    return ""


def _ask_hub(hub_id: str) -> None:
    """Raises unless the hub answers in time; a thread, as look-up of the name and connecting have no total limit."""
    failures: list[Exception] = [TimeoutError(f"no answer within {_HUB_PATIENCE_S} s")]

    def ask() -> None:
        try:
            HfApi().repo_info(hub_id, timeout=_HUB_PATIENCE_S)
            failures.clear()
        except Exception as error:
            failures[:] = [error]

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_PATIENCE_S)
    if failures:
        raise failures[0]


def load_part(model_class: Any, folder: Path, *, unused: str, **options: Any) -> Any:
    """One part of a diffusion model, all of whose weights come from the folder's safetensors files.

    Args:
        model_class: Class of diffusers or transformers.
        folder: Where its `config.json` and weights are.
        unused: Pattern of keys that may be missing, since nothing here uses them.
        options: Of `from_pretrained`.

    Raises:
        UsageError: If the folder's files are damaged, incomplete or pickles.
    """
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, **options}
    try:
        with without_bars():
            model, info = model_class.from_pretrained(folder, **options)
    except Exception as error:  # the libraries raise what their readers raise; all of it means: these files are bad
        if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
            raise UsageError(
                f"{folder} has pickled weights only (.bin), which are not read as they can run code. Convert them to "
                "safetensors where you trust them, or take a model that has them."
            ) from None
        raise UsageError(f"{folder} cannot be read: {first_line(error)}") from error
    problems = [f"missing {key}" for key in sorted(info["missing_keys"]) if not re.match(unused, key)]
    problems += [f"of another shape: {key}" for key in info["mismatched_keys"]]
    if problems:
        listed = "\n  ".join(problems[:20])
        raise UsageError(
            f"The weights in {folder} do not fit its config.json ({len(problems)} keys); copy or download them "
            f"again:\n  {listed}"
        )
    return model


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of other packages while local files are read or written; the user's setting comes back."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    hub_was_off = are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # the hub's too
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
        if hub_was_off:
            disable_progress_bars()


def load_unet_and_vae(source: str | Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and VAE of a Stable Diffusion 1.x or 2.x model, in float32.

    Raises:
        UsageError: If a part is missing, damaged or of another family.
    """
    path = find_source(source)
    if path.is_file():
        parts = read_single_file(path)
        return parts.build_unet(), parts.build_vae()
    _check_part(path, "unet")
    _check_part(path, "vae")
    config = read_json(path / "unet" / "config.json")
    if not isinstance(config, dict):
        raise UsageError(f"{path / 'unet' / 'config.json'} holds a {type(config).__name__}, not a configuration.")
    check_unet(config)
    unused = r"conv_norm_out\.|conv_out\."
    return load_part(UNet2DConditionModel, path / "unet", unused=unused, torch_dtype=torch.float32), _load_vae(path)


def check_unet(config: dict[str, Any]) -> None:
    """Refuse architectures that the walk does not cover, before any weight is read.

    Raises:
        UsageError: If the UNet is not of the Stable Diffusion 1.x / 2.x family.
    """
    strange = [f"{name}={config[name]!r}" for name in _MUST_BE_UNSET if config.get(name) not in _HARMLESS]
    down, up = config.get("down_block_types", ()), config.get("up_block_types", ())
    strange += [name for name in (*down, *up) if name not in (*_DOWN_BLOCKS, *_UP_BLOCKS)]
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") != "UNetMidBlock2DCrossAttn":
        strange.append(f"mid_block_type={config['mid_block_type']!r}")
    if strange:
        raise UsageError(
            f"This UNet is not of the Stable Diffusion 1.x / 2.x family: {', '.join(map(str, strange))}. "
            "Use a model such as stable-diffusion-v1-5/stable-diffusion-v1-5."
        )


def load_vae(source: str | Path) -> AutoencoderKL:
    """The VAE alone of a Stable Diffusion model, in float32; its decoder may be untrained.

    Raises:
        UsageError: If it is missing or damaged.
    """
    path = find_source(source)
    return read_single_file(path).build_vae() if path.is_file() else _load_vae(path)


def _check_part(path: Path, part: str) -> None:
    if not (path / part / "config.json").is_file():
        raise UsageError(
            f"{path} has no {part}/config.json: it is not a diffusion model in diffusers layout. "
            "It needs the folders unet and vae (and text_encoder and tokenizer for prompts)."
        )


def _load_vae(path: Path) -> AutoencoderKL:
    _check_part(path, "vae")
    unused = r"decoder\.|post_quant_conv\."
    return load_part(AutoencoderKL, path / "vae", unused=unused, torch_dtype=torch.float32)
