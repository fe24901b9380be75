"""Reading other people's weight files without running what is in them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vpd.errors import UsageError


def read_tensor_file(path: str | Path) -> dict[str, Any]:
    """Contents of a `.safetensors` file or of a PyTorch file, which is read with `weights_only=True`.

    Raises:
        UsageError: If the file is missing, empty, truncated, no weight file, or a pickle with code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty. Copy or download it again.")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise UsageError(f"{path} is truncated or not a safetensors file ({error}). Copy it again.") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UsageError(
                f"{path} holds more than weights: it would run code when loaded, so it was not read "
                f"({_culprit(error)}). Convert it to .safetensors where you trust it, or get a clean copy."
            ) from None
        raise UsageError(f"{path} is not a PyTorch weight file, or is damaged.") from None
    except (
        EOFError,
        RuntimeError,
        OSError,
        ValueError,
        KeyError,
        UnicodeDecodeError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} is truncated or not a PyTorch weight file ({reason}). Copy it again.") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds a {type(loaded).__name__}, not a dictionary of weights.")
    return loaded


def _culprit(error: Exception) -> str:
    """The name that the restricted reader refused, where its message has one."""
    for word in str(error).split():
        if "." in word.strip(".,`'") and not word.startswith(("http", "torch.load", "torch.serialization")):
            return word.strip(".,`'")
    return "its pickle needs names that are not allowed"


def tensors_only(contents: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a flat state dict; other entries (step counters and the like) are left out."""
    return {str(key): value for key, value in contents.items() if isinstance(value, torch.Tensor)}
