"""Weight files are read without running what is in them, and what is wrong with a file is said."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vpd.errors import UsageError
from vpd.weights.untrusted import read_shapes, read_tensor_file


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes/readme.txt", "no weights")
    return file.getvalue()


GARBAGE = {
    "picture": png(),
    "text": b"hello, this is text\nand more of it\n",
    "code": b"class Model:\n    pass\n",
    "page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
    "zip": other_zip(),
    **{f"random {seed}": random.Random(seed).randbytes(3000) for seed in (0, 1, 2, 14, 20, 41)},
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_no_weight_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(GARBAGE[kind])
    with pytest.raises(UsageError, match="not a PyTorch weight file") as error:
        read_tensor_file(path)
    assert str(path) in str(error.value)
    assert "run code" not in str(error.value)


class Prints:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


class Runs:
    def __reduce__(self):
        return (os.system, ("echo code in a checkpoint was run",))


@pytest.mark.parametrize(("code", "culprit"), [(Prints(), "print"), (Runs(), rf"{os.system.__module__}\.system")])
@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_code_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], way: str, code: object, culprit: str
) -> None:
    path = tmp_path / "evil.pth"
    if way == "pickle":
        path.write_bytes(pickle.dumps({"model": code}, protocol=2))
    else:
        torch.save({"model": code}, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(UsageError, match=f"holds more than weights: its {culprit} could run code when loaded"):
        read_tensor_file(path)
    assert "was run" not in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_pickles_that_torch_never_writes_are_no_weight_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], protocol: int
) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"model": Prints()}, protocol=protocol))
    with pytest.raises(UsageError, match="not a PyTorch weight file"):
        read_tensor_file(path)
    assert "was run" not in capfd.readouterr().out


@pytest.mark.parametrize("new_format", [True, False])
def test_options_and_numbers_beside_weights_are_read(tmp_path: Path, new_format: bool) -> None:
    allowed_before = set(torch.serialization.get_safe_globals())
    path = tmp_path / "file.pth"
    contents = {
        "model": {"a": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1, names=["a", "b"], resume=None),
        "best": np.float64(3.5),
        "count": np.int64(7),
        "done": np.bool_(True),
    }
    torch.save(contents, path, _use_new_zipfile_serialization=new_format)
    got = read_tensor_file(path)
    assert torch.equal(got.pop("model")["a"], torch.ones(2))
    assert got == {key: value for key, value in contents.items() if key != "model"}
    assert set(torch.serialization.get_safe_globals()) == allowed_before


def test_damaged_and_other_files(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1000)}}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="truncated or not a PyTorch weight file"):
        read_tensor_file(tmp_path / "short.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UsageError, match="is empty"):
        read_tensor_file(tmp_path / "empty.pth")
    with pytest.raises(UsageError, match="There is no file"):
        read_tensor_file(tmp_path / "none.pth")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(UsageError, match="truncated or not a safetensors file"):
        read_tensor_file(tmp_path / "text.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds a list"):
        read_tensor_file(tmp_path / "list.pth")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    tensors = {"a.weight": torch.zeros(2, 3), "b": torch.tensor(1), "c": torch.zeros(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    return tmp_path / "a.safetensors"


def test_types_and_shapes(weights: Path):
    shapes = read_shapes(weights)
    assert shapes == {"a.weight": ("F32", (2, 3)), "b": ("I64", ()), "c": ("BF16", (4,))}


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
        with pytest.raises(UsageError, match=rf"{name}\.safetensors is truncated or not a safetensors file"):
            read_shapes(path)
    with pytest.raises(UsageError, match=r"There is no .*absent\.safetensors"):
        read_shapes(tmp_path / "absent.safetensors")
