"""Model folders: `config.json` and safetensors, written whole or not at all, read back bit-equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vpd.backbones.sources import download
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import FORMAT_VERSION, ModelConfig
from vpd.errors import UsageError
from vpd.files import atomic_write, writable_folder, write_json
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_MODELS = {"segment": SegmentationModel, "refer": ReferringModel, "depth": DepthModel}
_DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DTYPES |= {"float64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(
    source: str | Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> SegmentationModel | ReferringModel | DepthModel:
    """A trained model, in eval mode.

    Args:
        source: Model folder, or hub id of a repository that holds one.
        device: `auto` = CUDA or Apple GPU where there is one, else CPU; or a torch device.
        dtype: `auto` = float32; or `float32`, `bfloat16`, `float16`.

    Raises:
        UsageError: If there is no such model, or its files are damaged or do not fit one another.
    """
    folder = find_model(source)
    model = build_model(read_config(folder))
    if (folder / "text_encoder").is_dir():
        model.text_encoder = TextEncoder.from_pretrained(folder)
    tensors = _read_weights(folder / WEIGHTS_FILE)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("text_encoder.")}
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)}, needs {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        listed = "\n  ".join(problems[:20])
        raise UsageError(f"{folder / WEIGHTS_FILE} does not fit its config.json ({len(problems)} keys):\n  {listed}")
    model.load_state_dict(tensors, strict=False, assign=True)
    model.backbone.vae.requires_grad_(False)
    return model.to(device=find_device(device), dtype=find_dtype(dtype)).eval()


def build_model(config: ModelConfig) -> Any:
    """The model of a configuration on the meta device: it has shapes but no weights yet."""
    with torch.device("meta"):
        return _MODELS[config.task](config, backbone=StableDiffusionBackbone.from_config(config.backbone))


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


def find_model(source: str | Path) -> Path:
    """The local folder of a model.

    Raises:
        UsageError: If there is none, or it is something else.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            return path
        if (path / "unet").is_dir():
            raise UsageError(
                f"{path} is a diffusion model, not a trained perception model. Train one from it: "
                f"vpd train TASK --model {path} --data DIR --out DIR"
            )
        raise UsageError(f"{path} is not a model folder: it has no {CONFIG_FILE}.")
    if path.is_file():
        raise UsageError(
            f"{path} is a file; a model is a folder. A published checkpoint becomes one by: "
            f"vpd convert TASK {path} --out DIR"
        )
    if str(source).count("/") != 1 or str(source).startswith(("/", ".", "~")):
        raise UsageError(f"There is no model folder {source}.")
    return download(str(source), [CONFIG_FILE, "*.safetensors", "text_encoder/*", "tokenizer/*"], needed=CONFIG_FILE)


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


def find_device(device: str | torch.device) -> torch.device:
    """The torch device of a name.

    Raises:
        UsageError: If there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"There is no device {device!r} here ({reason}). Use cpu, cuda, mps or auto.") from None
    return found


def find_dtype(dtype: str | torch.dtype | Literal["auto"]) -> torch.dtype:
    """The torch type of a name.

    Raises:
        UsageError: If it is not one a model can run in.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UsageError(f"Unknown dtype {dtype!r}. Choose one of: {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"There is no {path}: the model folder is not complete.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{path} is truncated or damaged ({error}). Copy the model again.") from None
