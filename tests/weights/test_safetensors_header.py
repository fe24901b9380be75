import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vpd.errors import UsageError
from vpd.weights.safetensors_header import count_values, read_shapes


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    tensors = {"a.weight": torch.zeros(2, 3), "b": torch.tensor(1), "c": torch.zeros(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    return tmp_path / "a.safetensors"


def test_types_and_shapes(weights: Path):
    shapes = read_shapes(weights)
    assert shapes == {"a.weight": ("F32", (2, 3)), "b": ("I64", ()), "c": ("BF16", (4,))}
    assert count_values(shapes) == 11


def test_damaged_files_are_named(weights: Path, tmp_path: Path):
    whole = weights.read_bytes()
    damaged = {
        "cut": whole[:-1],
        "longer": whole + b"\0",
        "empty": b"",
        "seven": whole[:7],
        "huge": struct.pack("<Q", 2**60) + whole[8:],
        "text": b"this is no weight file at all, whatever its name says",
        "list": struct.pack("<Q", 2) + b"[]",
        "keys": struct.pack("<Q", 14) + b'{"a": {"b": 1}',
        "odd": struct.pack("<Q", 15) + json.dumps({"a": {"b": 1}}).encode(),
    }
    for name, contents in damaged.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(contents)
        with pytest.raises(UsageError, match=rf"{name}\.safetensors is (truncated|damaged)"):
            read_shapes(path)
    with pytest.raises(UsageError, match=r"There is no .*absent\.safetensors"):
        read_shapes(tmp_path / "absent.safetensors")
