"""Depth that comes as numbers instead of a picture: NumPy files and arrays."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vpd.errors import UsageError
from vpd.files.decoding import Encoded, check_size


def is_npy(source: Path | Encoded) -> bool:
    """Whether a file is NumPy's: a path by its name, a file inside another file by how it begins."""
    if isinstance(source, Encoded):
        return source.content.startswith(npy.MAGIC_PREFIX)
    return source.suffix.lower() == ".npy"


def read_depth_array(source: Path | Encoded | NDArray[Any], scale: float | None = None) -> NDArray[np.float32]:
    """Depth `(H, W)` in metres from numbers; 0 = not measured.

    Args:
        source: An `.npy` file, one inside another file, or an array.
        scale: Units in one metre; none = 1000 for whole numbers (millimetres), 1 for floating-point numbers.

    Raises:
        UsageError: If the file cannot be read, or it holds anything but numbers in two dimensions.
    """
    name = "depth" if isinstance(source, np.ndarray) else str(source)
    values = source if isinstance(source, np.ndarray) else _read_npy(source)
    _check_kind(values.shape, values.dtype, name)
    if scale is None:
        scale = 1.0 if values.dtype.kind == "f" else 1000.0
    depth_m = values.astype(np.float32) / np.float32(scale)
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = 0
    return depth_m


def _check_kind(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    if len(shape) != 2 or dtype.kind not in "iuf":
        raise UsageError(f"{name}: depth is {dtype} of shape {shape}; it must be numbers (H, W)")
    if dtype.itemsize == 1:
        raise UsageError(f"{name}: depth needs numbers of 16 bits or more, not {dtype}")


def _read_npy(source: Path | Encoded) -> NDArray[Any]:
    """Array of an `.npy` file; its claims on its size are held against the bytes that are there."""
    try:
        content = source.content if isinstance(source, Encoded) else source.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{source}: no such file") from None
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror})") from error
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except Exception as error:  # damaged headers raise every kind of exception
        raise UsageError(f"{source}: not a NumPy file ({str(error).splitlines()[0][:200]})") from error
    _check_kind(shape, dtype, str(source))
    check_size((shape[1], shape[0]), str(source))
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise UsageError(f"{source}: damaged NumPy file; its header says {dtype} {shape}, which its size is not")
    values = np.frombuffer(content, dtype=dtype, offset=file.tell())
    return values.reshape(shape, order="F" if is_fortran else "C")
