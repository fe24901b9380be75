"""Model folders: `config.json` and safetensors, each file written whole or not at all, read back bit-equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from vpd.config import FORMAT_VERSION, ModelConfig
from vpd.errors import UsageError
from vpd.files import atomic_write, writable_folder, write_json

if TYPE_CHECKING:
    from vpd.tasks.model import PerceptionModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_model(model: PerceptionModel, folder: str | Path) -> None:
    """Write a model folder; each file is replaced whole, the configuration last.

    Raises:
        UsageError: If the folder cannot be written.
    """
    folder = writable_folder(folder)
    tensors = {
        key: value.detach().cpu().contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("text_encoder.")
    }
    with atomic_write(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "vpd_format_version": str(FORMAT_VERSION)})
    if model.text_encoder is not None:
        model.text_encoder.model.save_pretrained(folder / "text_encoder")
        model.text_encoder.tokenizer.save_pretrained(folder / "tokenizer")
    write_json(folder / CONFIG_FILE, model.config.model_dump(mode="json"))


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder.

    Raises:
        UsageError: If it is damaged, or written by a newer version.
    """
    path = folder / CONFIG_FILE
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None
    version = contents.get("format_version") if isinstance(contents, dict) else None
    if version is None:
        raise UsageError(f"{path} is not a model of this library (it has no format_version).")
    if version != FORMAT_VERSION:
        raise UsageError(f"{path} has format version {version}; this vpd reads {FORMAT_VERSION}. Update vpd.")
    try:
        config: ModelConfig = TypeAdapter(ModelConfig).validate_python(contents)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{path} is not a valid model configuration: {wrong}") from None
    return config
