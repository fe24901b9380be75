"""Where diffusion weights come from (folder in diffusers layout, hub id, single LDM file): found, loaded, checked."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vpd.errors import UsageError, first_line
from vpd.weights.families import refuse_foreign_folder
from vpd.weights.finite import warn_not_finite
from vpd.weights.folder_files import TEXT_STEM, UNET_STEM, diffusion_files, weight_files
from vpd.weights.hub import download, is_hub_id
from vpd.weights.shipped import WORLD, shipped_diffusion
from vpd.weights.single_file import listed, read_single_file
from vpd.weights.untrusted import plain_name

logger = logging.getLogger(__name__)

SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")


_VAE_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def find_source(source: str | Path, *, with_text: bool = False) -> Path:
    """The local folder or file behind a source; downloads what is needed of a hub id that is not cached.

    Args:
        source: Folder, single file, hub id, or `world` for the small model that comes with the package.
        with_text: Whether the text encoder and tokenizer are needed as well.

    Raises:
        UsageError: If there is no such thing, or a hub id is neither cached nor reachable.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() in SINGLE_FILE_SUFFIXES):
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
    return download(str(source), diffusion_files(with_text=with_text), check=refuse_foreign_folder)


def recorded_source(source: str | Path) -> str:
    """What is kept of where weights came from: a local path in full, anything else as it is.

    So it is found from any folder, and not taken for a hub id, which may look the same (`models/sd15`).
    """
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else str(source)  # links stay: caches name what they lead to by hashes


def load_part(model_class: Any, folder: Path, *, unused: str, dtype: torch.dtype = torch.float32) -> Any:
    """One part of a diffusion model, all of whose weights come from the folder's safetensors files.

    Args:
        model_class: Class of diffusers or transformers.
        folder: Where its `config.json` and weights are.
        unused: Pattern of keys that may be missing, since nothing here uses them.
        dtype: Of the weights, whatever they are stored in.

    Raises:
        UsageError: If the folder's files are damaged, incomplete or pickles.
    """
    stem = TEXT_STEM if issubclass(model_class, PreTrainedModel) else UNET_STEM
    weights = weight_files({path.name for path in folder.glob("*")}, stem)
    if weights is None and any(folder.glob("*.bin")):
        raise UsageError(
            f"{folder} has pickled weights only (.bin), which are not read as they can run code. Convert them to "
            "safetensors where you trust them, or take a model that has them."
        )
    if weights is None:
        raise UsageError(f"{folder} cannot be read: it has no {stem}.safetensors, or not all of its shards.")
    if weights.variant:
        logger.info("%s holds %s weights only; they are taken.", folder, weights.variant)
    try:
        usual = ".".join(filter(None, (stem, weights.variant, "safetensors")))
        if weights.files == [usual] and not _is_wrapped(folder / usual):
            model, missing, mismatched = _load_usual(model_class, folder, weights.variant or None, dtype)
        else:
            model, missing, mismatched = _load_odd(model_class, folder, weights.files, dtype)
    except UsageError:
        raise
    except Exception as error:  # the libraries raise what their readers raise; all of it means: these files are bad
        raise UsageError(f"{folder} cannot be read: {first_line(error)}") from error
    problems = [f"missing {key}" for key in sorted(missing) if not re.match(unused, key)]
    problems += [f"of another shape: {key}" for key in mismatched]
    if problems:
        raise UsageError(
            f"The weights in {folder} do not fit its config.json ({len(problems)} keys); copy or download them "
            f"again:{listed(problems, 20)}"
        )
    warn_not_finite(model.state_dict(), folder, unused=unused)
    return model


def _is_wrapped(path: Path) -> bool:
    with safe_open(path, "np") as file:
        return any(plain_name(name) != name for name in file.keys())  # noqa: SIM118, it is no dictionary


def _load_usual(
    model_class: Any, folder: Path, variant: str | None, dtype: torch.dtype
) -> tuple[Any, list[str], list[str]]:
    """As the libraries load what they saved, old names included; without their progress bars."""
    options: dict[str, Any] = {
        "dtype" if issubclass(model_class, PreTrainedModel) else "torch_dtype": dtype,
        "variant": variant,
    }
    options |= {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    with without_bars():
        model, info = model_class.from_pretrained(folder, **options)
    return model, list(info["missing_keys"]), [str(key) for key in info["mismatched_keys"]]


def _load_odd(model_class: Any, folder: Path, files: list[str], dtype: torch.dtype) -> tuple[Any, list[str], list[str]]:
    """Shards, other suffixes and names that a wrapper changed."""
    tensors = {_new_name(key): value for file in files for key, value in load_file(folder / file).items()}
    is_text = issubclass(model_class, PreTrainedModel)
    if is_text:
        model = model_class(model_class.config_class.from_pretrained(folder, local_files_only=True))
    else:
        model = model_class.from_config(model_class.load_config(folder, local_files_only=True))
    wanted = model.state_dict()
    if is_text:  # old files have a prefix that new ones lack, or the other way round
        bare = {key.removeprefix("text_model."): value for key, value in tensors.items()}
        tensors = {key: bare[short] for key in wanted if (short := key.removeprefix("text_model.")) in bare}
    mismatched = [key for key, value in tensors.items() if key in wanted and value.shape != wanted[key].shape]
    if not mismatched:
        model.load_state_dict(tensors, strict=False)
    return model.to(dtype).eval(), [key for key in wanted if key not in tensors], mismatched


def _new_name(key: str) -> str:
    """Plain, and as diffusers calls the VAE's attention today."""
    return re.sub(r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda m: _VAE_NAMES[m[1]], plain_name(key))


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers meanwhile, which draws them whoever calls it."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    had_hub_bars = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # those of the hub as well
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
        if not had_hub_bars:
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
    refuse_foreign_folder(path)
    _check_part(path, "unet")
    _check_part(path, "vae")
    return load_part(UNet2DConditionModel, path / "unet", unused=r"conv_norm_out\.|conv_out\."), _load_vae(path)


def load_vae(source: str | Path) -> AutoencoderKL:
    """The VAE alone of a Stable Diffusion model, in float32; its decoder may be untrained.

    Raises:
        UsageError: If it is missing or damaged.
    """
    path = find_source(source)
    return read_single_file(path).build_vae() if path.is_file() else _load_vae(path)


def _check_part(path: Path, part: str) -> None:
    if not (path / part / "config.json").is_file():
        singles = sorted(file for file in path.glob("*") if file.suffix.lower() in SINGLE_FILE_SUFFIXES)
        hint = f" If {singles[0]} is a whole model, give that file." if singles else ""
        raise UsageError(
            f"{path} has no {part}/config.json: it is not a diffusion model in diffusers layout. "
            "It needs the folders unet and vae (and text_encoder and tokenizer for prompts)." + hint
        )


def _load_vae(path: Path) -> AutoencoderKL:
    _check_part(path, "vae")
    return load_part(AutoencoderKL, path / "vae", unused=r"decoder\.|post_quant_conv\.")
