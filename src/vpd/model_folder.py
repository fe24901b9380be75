"""Model folders: `config.json` and safetensors, each file written whole or not at all, read back bit-equal.

What needs torch imports it when it runs: telling what a folder holds does without.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from vpd.config import FORMAT_VERSION, Frozen, TaskConfig
from vpd.errors import UsageError, wrong_fields
from vpd.files.atomic import atomic_write, check_writable, read_json, writable_folder, write_json
from vpd.files.own_files import has_keys, refuse_files
from vpd.version import __version__
from vpd.weights.shipped import WORLD, shipped_diffusion

if TYPE_CHECKING:
    from torch import Tensor

    from vpd.prompts.encoder import TextEncoder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CHECKPOINTS, MODEL, LAST, CONFIG = "checkpoints", "model", "last", "config.yaml"
"""In the folder of a training run: its checkpoints, the finished model, the one of the last step where that is another,
and the settings (in every checkpoint too)."""
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format version -> what makes of a configuration of that version one of the next. Steps are added and stay as they
are, so that folders of every release are read. A new field needs none: its default says what older releases did."""
_PAIR = "saved_together"  # the same words in both files: neither is from another save
_BASE = "base"
_TEXT_PREFIX = "text_encoder."
_TEXT_FOLDERS = ("text_encoder", "tokenizer")


class Base(Frozen):
    """What of a model is not in its folder."""

    source: str
    """The diffusion model that has it: `world`, or a hub id."""
    fingerprint: str
    """Of its weights, so that another model of the same name is noticed."""
    text_encoder: bool = False
    """Whether the text encoder comes from it too; then the fingerprint is of it as well."""


def find_base(source: str) -> str | Path:
    """Where a base is; raises for a folder that lies here, as only names are told that mean the same on any machine."""
    from vpd.weights.hub import is_hub_id  # takes long to import

    if source == WORLD:
        return shipped_diffusion()
    if not is_hub_id(source) or Path(source).exists():
        raise UsageError(
            f"base={source!r}: give {WORLD} or a hub id, by which any machine finds it. A model trained from a local "
            "folder is saved whole: leave base out."
        )
    return source


def save_model(
    config: TaskConfig,
    weights: Mapping[str, Tensor],
    folder: str | Path,
    *,
    text_encoder: TextEncoder | None = None,
    base: str | None = None,
    half: bool = False,
) -> None:
    """Write a model folder; each file is replaced whole, the configuration last.

    Args:
        config: Of the model.
        weights: Its `state_dict()`; those of the text encoder are left to `text_encoder`.
        folder: Made if missing.
        text_encoder: Of the model, where it has one.
        base: Diffusion model whose weights are left out; loading takes them from there.
        half: Store floating-point numbers in float16.

    Raises:
        UsageError: If the folder cannot be written or holds files of these names that are no model of this library,
            or the base is none or the model not in float32.
    """
    from safetensors.torch import save_file

    refuse_foreign_files(Path(folder))
    pair = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in weights.items() if not key.startswith(_TEXT_PREFIX)
    }
    contents, shares_text = config.model_dump(mode="json"), False
    if base:
        tensors, told = _without_base(tensors, text_encoder, base)
        contents[_BASE], shares_text = told.model_dump(), told.text_encoder
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    folder = writable_folder(folder)
    with atomic_write(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", _PAIR: pair})
    for part in _TEXT_FOLDERS:  # one of another model must not stay
        shutil.rmtree(folder / part, ignore_errors=True)
    if text_encoder is not None and not shares_text:
        text_encoder.save(folder)
    write_json(folder / CONFIG_FILE, {**contents, _PAIR: pair})


def refuse_foreign_files(folder: Path) -> None:
    """Make sure that saving a model replaces no file, and removes no folder, but those of an earlier save.

    Raises:
        UsageError: If there are others.
    """
    there = [path for name in (CONFIG_FILE, WEIGHTS_FILE, *_TEXT_FOLDERS) if (path := folder / name).exists()]
    is_own = has_keys(folder / CONFIG_FILE, ["format_version"]) or _pair_of(folder / WEIGHTS_FILE) is not None
    if there and not is_own:  # of one that was cut off there are the weights
        refuse_files(there, "Saving a model", remedy="Give another folder")


def _without_base(
    weights: dict[str, Tensor], text_encoder: TextEncoder | None, source: str
) -> tuple[dict[str, Tensor], Base]:
    """What must be stored beside a base, and what a folder says of that base."""
    import torch

    from vpd.weights.difference import leave_out, weights_fingerprint

    types = [value.dtype for value in weights.values() if value.is_floating_point() and value.dtype != torch.float32]
    if types:
        found = str(types[0]).removeprefix("torch.")
        raise UsageError(f"This model is {found}; load it in float32 to save it without its base (base={source!r}).")
    of_base, of_text = base_weights(source), shared_encoder(text_encoder, source)
    told = Base(source=source, fingerprint=weights_fingerprint({**of_base, **of_text}), text_encoder=bool(of_text))
    return leave_out(weights, of_base), told


def base_weights(source: str) -> dict[str, Tensor]:
    """The backbone of a base, as a model's weights name it.

    Raises:
        UsageError: If the source is a path, or cannot be loaded.
    """
    from vpd.backbones.stable_diffusion import StableDiffusionBackbone

    weights = StableDiffusionBackbone.from_pretrained(find_base(source)).state_dict()
    return {f"backbone.{name}": value for name, value in weights.items()}


def encoder_weights(encoder: TextEncoder) -> dict[str, Tensor]:
    """Those of a text encoder, under names that no backbone has."""
    return {_TEXT_PREFIX + name: value for name, value in encoder.model.state_dict().items()}


def shared_encoder(encoder: TextEncoder | None, source: str) -> dict[str, Tensor]:
    """The base's text encoder if a model has the same, to the bit; else nothing."""
    import torch

    from vpd.prompts.encoder import TextEncoder

    if encoder is None:
        return {}
    own, theirs = encoder_weights(encoder), encoder_weights(TextEncoder.from_pretrained(find_base(source)))
    is_shared = own.keys() == theirs.keys() and all(
        torch.equal(value.cpu(), theirs[name].to(value.dtype)) for name, value in own.items()
    )
    return theirs if is_shared else {}


def results_folder(path: str | Path) -> Path:
    """`writable_folder`, for results that must not be mixed with a model or a training run.

    Raises:
        UsageError: If the folder holds one, or takes no files.
    """
    refuse_models(path, or_runs=True)
    return writable_folder(path)


def check_results_folder(path: str | Path) -> None:
    """`results_folder` before it is needed; makes nothing.

    Raises:
        UsageError: As that does.
    """
    refuse_models(path, or_runs=True)
    check_writable(path)


def refuse_models(path: str | Path, *, or_runs: bool = False) -> None:
    """Make sure that nothing is written beside or over a model; writes nothing itself.

    Raises:
        UsageError: If the folder is one, of this library or of diffusers, or of a pre-training; with `or_runs` also if
            it holds a training run.
    """
    path = Path(path)
    if or_runs and is_run(path):
        raise UsageError(f"{path} holds a training run. Give another folder.")
    for pattern in (WEIGHTS_FILE, "model_index.json", "*-training.safetensors"):
        if found := next(path.glob(pattern), None):
            raise UsageError(f"{path} holds a model ({found.name}). Remove it, or give another folder.")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run, whatever came of it."""
    return (folder / CONFIG).is_file() and ((folder / CHECKPOINTS).is_dir() or (folder / MODEL).is_dir())


def read_config(folder: Path, kinds: Mapping[str, type[TaskConfig]]) -> tuple[Any, Base | None]:
    """The configuration of a model folder, and what of the model is not in it; none = all is.

    Args:
        folder: Of the model.
        kinds: Task -> class of its configurations.

    Raises:
        UsageError: If the configuration is damaged, written by a newer release, of another task, or not saved together
            with the weights, as when a save over another model was cut off.
    """
    path = folder / CONFIG_FILE
    contents = read_json(path)
    version = contents.pop("format_version", None) if isinstance(contents, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        kind = contents.get("_class_name") if isinstance(contents, dict) else None
        part = f"; it is of a {str(kind)[:80]}: of a diffusion model give the whole folder" if kind else ""
        raise UsageError(f"{path} is not a model of this library (it has no format_version{part}).")
    if not 1 <= version <= FORMAT_VERSION:
        known = " to ".join(map(str, sorted({1, FORMAT_VERSION})))
        raise UsageError(f"{path} has format version {version}; this vpd reads {known}. Update vpd.")
    for older in range(version, FORMAT_VERSION):
        contents = UPGRADES[older](contents)
    task, pair, base = contents.get("task"), contents.pop(_PAIR, None), contents.pop(_BASE, None)
    if not isinstance(task, str) or task not in kinds:
        raise UsageError(f"{path} is of a model for {task!r}, which is no task here: known are {', '.join(kinds)}.")
    try:
        config = kinds[task].model_validate(contents)
    except ValidationError as error:
        fields = wrong_fields(error)
        newer = any(field.kind == "extra_forbidden" for field in fields)
        hint = f". If a newer vpd than {__version__} wrote it, update vpd." if newer else ""
        raise UsageError(f"{path} is not a valid model configuration: {'; '.join(map(str, fields))}{hint}") from None
    if pair and (saved_with := _pair_of(folder / WEIGHTS_FILE)) and saved_with != pair:
        raise UsageError(
            f"{path} and {WEIGHTS_FILE} are of two different models: a save over an older model was cut off. Save or "
            "copy the model again."
        )
    try:
        return config, None if base is None else Base.model_validate(base)
    except ValidationError as error:
        wrong = "; ".join(map(str, wrong_fields(error)))
        raise UsageError(f"{path} does not say well where its other weights are: {wrong}") from None


def _pair_of(weights: Path) -> str | None:
    try:
        with safe_open(weights, "np") as file:
            return (file.metadata() or {}).get(_PAIR)
    except (OSError, SafetensorError):
        return None  # reading the weights says what is wrong with them
