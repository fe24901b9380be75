"""What is in a safetensors file, from its header alone: a few kilobytes of a file of gigabytes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from vpd.errors import UsageError

_MAX_HEADER = 100_000_000  # the format's own limit, bytes


def read_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a safetensors file, such as `("F32", (320, 4, 3, 3))`, by name.

    Raises:
        UsageError: If the file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise UsageError(f"There is no {path}.")
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(size - 8, _MAX_HEADER):
            raise UsageError(f"{path} is truncated or not a safetensors file: its header does not fit into it.")
        header = file.read(length)
    try:
        entries: dict[str, Any] = json.loads(header)
        entries.pop("__metadata__", None)
        shapes = {name: (str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UsageError(f"{path} is damaged or not a safetensors file: its header cannot be read.") from error
    if 8 + length + end != size:
        raise UsageError(f"{path} is truncated: it has {size} bytes, its header tells of {8 + length + end}.")
    return shapes


def count_values(shapes: dict[str, tuple[str, tuple[int, ...]]]) -> int:
    """Numbers in all tensors together."""
    return sum(math.prod(shape) for _, shape in shapes.values())
