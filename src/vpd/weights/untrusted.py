"""Reading other people's weight files without running what is in them; torch comes with the first that needs it."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vpd.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_INERT: list[Any] = [
    argparse.Namespace,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd"),
]
"""What training scripts save beside weights and what can run no code: options and NumPy's numbers."""
_REFUSED = re.compile(r"GLOBAL (\w+(?:\.\w+)*) (?:was|whose)")
"""The name that the restricted reader refused, in its message."""
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARALLEL = re.compile(r"^(?:module\.)+")


def plain_name(key: str) -> str:
    """A weight's name without what torch.compile, FSDP, checkpointing and DataParallel put into it."""
    return _PARALLEL.sub("", _WRAPPERS.sub("", key))


def read_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a safetensors file, such as `("F32", (320, 4, 3, 3))`, read off its header.

    Names are plain, see `plain_name`.

    Raises:
        UsageError: If the file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise UsageError(f"There is no {path}.")
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
            return {plain_name(name): (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: SafetensorError) -> UsageError:
    return UsageError(f"{path} is truncated or not a safetensors file ({error}). Copy it again.")


def read_tensor_file(path: str | Path) -> dict[str, Any]:
    """Contents of a `.safetensors` file or of a PyTorch file, which is read with `weights_only=True`.

    Raises:
        UsageError: If the file is missing, empty, truncated, no weight file, or a pickle that could run code.
    """
    import torch
    from safetensors.torch import load_file
    from torch.serialization import safe_globals

    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty. Copy or download it again.")
    if path.suffix.lower() == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise _damaged(path, error) from None
    try:
        with safe_globals(_INERT):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if refused := _REFUSED.search(str(error)):
            raise UsageError(
                f"{path} holds more than weights: its {refused[1]} could run code when loaded, so it was not read. "
                "Convert it to .safetensors where you trust it, or get a clean copy."
            ) from None
        raise UsageError(f"{path} is not a PyTorch weight file, or is damaged. Copy it again.") from None
    except Exception as error:  # the unpickler raises whatever the bytes lead it to; all of it means: a bad file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{path} is truncated or not a PyTorch weight file ({reason}). Copy it again.") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds a {type(loaded).__name__}, not a dictionary of weights.")
    return loaded


def tensors_only(contents: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a flat state dict by plain names; other entries (step counters and the like) are left out."""
    from torch import Tensor

    return {plain_name(str(key)): value for key, value in contents.items() if isinstance(value, Tensor)}
