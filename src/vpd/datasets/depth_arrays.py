"""Depth as numbers: arrays, NumPy's files (`.npy`, `.npz`) and OpenEXR's; what headers claim is checked first."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vpd.errors import UsageError, first_line
from vpd.files.decoding import Encoded, check_size

ARRAY_SUFFIXES = (".npy", ".npz", ".exr")
_ZIP, _EXR = b"PK\x03\x04", b"\x76\x2f\x31\x01"
_KEY = "depth"
"""Array that counts in an `.npz` file of several."""
_CHANNELS = ("depth", "z", "y", "v", "r")
"""Channels of an EXR that may be depth, by their last word in lower case; the first one that is there counts."""
_LONGEST_HEADER = 2**20


def is_array(source: Path | Encoded) -> bool:
    """Whether a file holds numbers: a path by its name, a file inside another file by how it begins."""
    if isinstance(source, Encoded):
        return source.content.startswith((npy.MAGIC_PREFIX, _ZIP, _EXR))
    return source.suffix.lower() in ARRAY_SUFFIXES


def read_depth_array(source: Path | Encoded | NDArray[Any], scale: float | None = None) -> NDArray[np.float32]:
    """Depth `(H, W)` in metres from numbers; 0 = not measured.

    Args:
        source: An `.npy`, `.npz` or `.exr` file, one inside another file, or an array; `(H, W)`, `(H, W, 1)` or
            `(1, H, W)`.
        scale: Units in one metre; none = 1000 for whole numbers (millimetres), 1 for floating-point numbers.

    Raises:
        UsageError: If the file cannot be read, or it holds anything but numbers in two dimensions.
    """
    name = "depth" if isinstance(source, np.ndarray) else str(source)
    values = source if isinstance(source, np.ndarray) else _read(source)
    values = values.reshape(_plane(values.shape, values.dtype, name))
    if scale is None:
        scale = 1.0 if values.dtype.kind == "f" else 1000.0
    depth_m = values.astype(np.float32) / np.float32(scale)
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = 0
    return depth_m


def _plane(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> tuple[int, int]:
    """Height and width of an array of depth, which may have a third axis of one."""
    sides = shape
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        sides = shape[:2] if shape[2] == 1 else shape[1:]
    if len(sides) != 2 or dtype.kind not in "iuf":
        raise UsageError(f"{name}: depth is {dtype} of shape {shape}; it must be numbers (H, W)")
    if dtype.itemsize == 1:
        raise UsageError(f"{name}: depth needs numbers of 16 bits or more, not {dtype}")
    check_size((sides[1], sides[0]), name)
    return sides


def _read(source: Path | Encoded) -> NDArray[Any]:
    try:
        with io.BytesIO(source.content) if isinstance(source, Encoded) else source.open("rb") as file:
            length = file.seek(0, io.SEEK_END)
            file.seek(0)
            head = file.read(4)
            file.seek(0)
            if head == _EXR:
                return _read_exr(source, file.read(_LONGEST_HEADER))
            return _read_npz(file, str(source)) if head == _ZIP else _read_npy(file, length, str(source))
    except FileNotFoundError:
        raise UsageError(f"{source}: no such file") from None
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror})") from error


def _read_npz(file: IO[bytes], name: str) -> NDArray[Any]:
    """The one array of an archive, or the one called depth."""
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(arrays) != 1 and _KEY not in arrays:
                raise UsageError(f"{name}: has the arrays {', '.join(arrays) or 'none'}; one must be called {_KEY}")
            info = arrays.get(_KEY) or next(iter(arrays.values()))
            with archive.open(info) as member:
                return _read_npy(member, info.file_size, f"{name}, {info.filename}")
    except UsageError:
        raise
    except Exception as error:  # damaged archives raise every kind of exception
        raise UsageError(f"{name}: not a NumPy archive ({first_line(error)})") from error


def _read_npy(file: IO[bytes], length: int, name: str) -> NDArray[Any]:
    """Array of an `.npy` file; its claims on its size are held against the bytes that are there."""
    try:
        start = file.read(10)
        longer = file.read(2) if start[6:7] > b"\1" else b""
        header_bytes = int.from_bytes(start[8:] + longer, "little")  # up to 4 GB of an archive, if that were believed
        if header_bytes > _LONGEST_HEADER:
            raise ValueError(f"a header of {header_bytes:,} bytes")
        header = io.BytesIO(start + longer + file.read(header_bytes))
        version = npy.read_magic(header)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(header)
    except Exception as error:  # damaged headers raise every kind of exception
        raise UsageError(f"{name}: not a NumPy file ({str(error).splitlines()[0][:200]})") from error
    _plane(shape, dtype, name)
    size = math.prod(shape) * dtype.itemsize
    content = file.read(size + 1)
    if len(content) != size or length - size > _LONGEST_HEADER:
        raise UsageError(f"{name}: damaged NumPy file; its header says {dtype} {shape}, which its size is not")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if is_fortran else "C")


def _read_exr(source: Path | Encoded, head: bytes) -> NDArray[Any]:
    """The channel of an EXR that is depth; read by the package OpenEXR, which is not one of ours."""
    width, height = _exr_size(head, str(source))
    check_size((width, height), str(source))
    try:
        import OpenEXR
    except ImportError:
        raise UsageError(
            f"{source}: EXR files are read by the package OpenEXR, which is not installed: pip install OpenEXR"
        ) from None
    if isinstance(source, Encoded):
        raise UsageError(f"{source}: EXR files are read from folders only, not from archives or tables")
    try:
        with OpenEXR.File(str(source), separate_channels=True) as file:
            channels = {name: np.asarray(channel.pixels) for name, channel in file.channels().items()}
    except Exception as error:
        raise UsageError(f"{source}: damaged EXR ({first_line(error)})") from error
    return _depth_channel(channels, str(source))


def _depth_channel(channels: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The only channel, or one that is called like depth; colours count where all are equal."""
    if len(channels) == 1:
        return next(iter(channels.values()))
    by_word = {channel.rpartition(".")[2].lower(): values for channel, values in channels.items()}
    found = next((word for word in _CHANNELS if word in by_word), None)
    others = [by_word[word] for word in "gb" if word in by_word]
    is_colour = found == "r" and not (len(others) == 2 and all(np.array_equal(by_word["r"], other) for other in others))
    if found is None or is_colour:
        raise UsageError(f"{name}: has the channels {', '.join(channels)}; which is depth? Save one channel, called Z")
    return by_word[found]


def _exr_size(head: bytes, name: str) -> tuple[int, int]:
    """Width and height by the header's data window."""
    place = head.find(b"dataWindow\0box2i\0")
    if place < 0 or len(head) < place + 37:
        raise UsageError(f"{name}: damaged EXR; its header states no size")
    left, top, right, bottom = struct.unpack_from("<4i", head, place + 21)  # after names and the 4 bytes of length
    return right - left + 1, bottom - top + 1
