"""Model folders: `config.json` and safetensors, each file written whole or not at all, read back bit-equal."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from vpd.config import FORMAT_VERSION, ModelConfig
from vpd.errors import UsageError
from vpd.files import atomic_write, writable_folder, write_json

if TYPE_CHECKING:
    from vpd.model_base import Base
    from vpd.tasks.model import PerceptionModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CHECKPOINTS, MODEL, CONFIG = "checkpoints", "model", "config.yaml"
"""In the folder of a training run: its checkpoints, the finished model, and the settings (in every checkpoint too)."""
_PAIR = "saved_together"  # the same words in both files: neither is from another save
_BASE = "base"


def save_model(model: PerceptionModel, folder: str | Path, *, base: str | None = None, half: bool = False) -> None:
    """Write a model folder; each file is replaced whole, the configuration last.

    Args:
        model: Whom to save.
        folder: Made if missing.
        base: Diffusion model whose weights are left out; loading takes them from there.
        half: Store floating-point numbers in float16.

    Raises:
        UsageError: If the folder cannot be written, or the base is none or the model not in float32.
    """
    import torch
    from safetensors.torch import save_file  # brings torch, which telling what a folder holds does without

    from vpd.model_base import Base, base_weights, fingerprint, leave_out, shared_encoder

    pair = hashlib.sha256(model.config.model_dump_json().encode()).hexdigest()[:16]
    tensors = {
        key: value.detach().cpu().contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("text_encoder.")
    }
    contents, shares_text = model.config.model_dump(mode="json"), False
    if base:
        if model.dtype != torch.float32:
            found = str(model.dtype).removeprefix("torch.")
            raise UsageError(f"This model is {found}; load it in float32 to save it without its base (base={base!r}).")
        weights = base_weights(base)
        tensors = leave_out(tensors, weights)
        of_text = shared_encoder(model.text_encoder, base)
        shares_text = bool(of_text)
        mark = fingerprint({**weights, **of_text})
        contents[_BASE] = Base(source=base, fingerprint=mark, text_encoder=shares_text).model_dump()
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    folder = writable_folder(folder)
    with atomic_write(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", _PAIR: pair})
    for part in ("text_encoder", "tokenizer"):  # one of another model must not stay
        shutil.rmtree(folder / part, ignore_errors=True)
    if model.text_encoder is not None and not shares_text:
        model.text_encoder.model.save_pretrained(folder / "text_encoder")
        model.text_encoder.tokenizer.save_pretrained(folder / "tokenizer")
    write_json(folder / CONFIG_FILE, {**contents, _PAIR: pair})


def results_folder(path: str | Path) -> Path:
    """`writable_folder`, for results that must not be mixed with a model or a training run.

    Raises:
        UsageError: If the folder holds one, or takes no files.
    """
    refuse_models(path, or_runs=True)
    return writable_folder(path)


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


def check_pair(folder: Path) -> None:
    """Make sure that configuration and weights were saved together.

    Raises:
        UsageError: If a save over another model was cut off between the two files.
    """
    contents = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as weights:
            saved_with = (weights.metadata() or {}).get(_PAIR)
    except (OSError, SafetensorError):
        return  # reading the weights says what is wrong with them
    if saved_with and contents.get(_PAIR) and saved_with != contents[_PAIR]:
        raise UsageError(
            f"{folder / CONFIG_FILE} and {WEIGHTS_FILE} are of two different models: a save over an older model was "
            "cut off. Save or copy the model again."
        )


def read_base(folder: Path) -> Base | None:
    """What of a model is not in its folder, which `read_config` has found to be one; none = nothing.

    Raises:
        UsageError: If what the folder says of it is not valid.
    """
    from vpd.model_base import Base

    path = folder / CONFIG_FILE
    contents = json.loads(path.read_text(encoding="utf-8")).get(_BASE)
    try:
        return None if contents is None else Base.model_validate(contents)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{path} does not say well where its other weights are: {wrong}") from None


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder.

    Raises:
        UsageError: If it is damaged, or written by a newer version.
    """
    path = folder / CONFIG_FILE
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None
    version = contents.pop("format_version", None) if isinstance(contents, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(f"{path} is not a model of this library (it has no format_version).")
    if version != FORMAT_VERSION:
        raise UsageError(f"{path} has format version {version}; this vpd reads {FORMAT_VERSION}. Update vpd.")
    contents.pop(_PAIR, None)
    contents.pop(_BASE, None)
    try:
        config: ModelConfig = TypeAdapter(ModelConfig).validate_python(contents)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{path} is not a valid model configuration: {wrong}") from None
    return config
