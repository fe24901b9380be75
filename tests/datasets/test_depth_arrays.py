"""Depth in NumPy's files and OpenEXR's."""

import io
import struct
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from vpd.datasets.depth_arrays import read_depth_array
from vpd.errors import UsageError
from vpd.files.decoding import Encoded

METRES = np.array([[1.5, 2], [0, np.nan]], dtype=np.float32)


def refusal(source):
    with pytest.raises(UsageError) as error:
        read_depth_array(source)
    return str(error.value)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1), (1, 2, 2)])
def test_third_axes_of_one(shape, tmp_path):
    np.save(tmp_path / "a.npy", METRES.reshape(shape))
    assert read_depth_array(tmp_path / "a.npy").tolist() == [[1.5, 2], [0, 0]]
    assert read_depth_array(METRES.reshape(shape)).shape == (2, 2)


def test_archives_of_arrays(tmp_path):
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, METRES)
        assert read_depth_array(path).tolist() == [[1.5, 2], [0, 0]]
        save(path, rgb=np.zeros((2, 2, 3)), depth=np.full((2, 2), 1500, np.uint16))
        assert (read_depth_array(path) == 1.5).all()
    np.savez(path, a=METRES, b=METRES)
    assert "a.npz: has the arrays a, b; one must be called depth" in refusal(path)
    np.savez(path, depth=np.array([[{}]], dtype=object))
    assert "depth is object of shape (1, 1)" in refusal(path)
    np.savez(path, depth=np.zeros((2, 2, 3)))
    assert "depth is float64 of shape (2, 2, 3); it must be numbers (H, W)" in refusal(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    assert "a.npz: not a NumPy archive" in refusal(path)


def test_claims_of_archives_take_no_memory(tmp_path):
    file = io.BytesIO()
    np.save(file, np.zeros((2, 2), np.float32))
    for wrong, message in (
        (file.getvalue().replace(b"(2, 2), }            ", b"(99999999, 99999999),}"), "megapixels"),
        (file.getvalue().replace(b"(2, 2)", b"(2, 9)"), "damaged NumPy file; its header says"),
        (file.getvalue() + bytes(2**22), "damaged NumPy file; its header says"),
    ):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("depth.npy", wrong)
        assert message in refusal(tmp_path / "a.npz")


def exr(width=2, height=2):
    """The beginning of an EXR: its data window."""
    window = struct.pack("<4i", 3, 4, 3 + width - 1, 4 + height - 1)
    return b"\x76\x2f\x31\x01\x02\0\0\0dataWindow\0box2i\0" + struct.pack("<i", 16) + window + b"\0"


def test_exr_needs_its_package_and_a_size_that_fits(tmp_path, monkeypatch):
    path = tmp_path / "a.exr"
    path.write_bytes(exr())
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    assert "a.exr: EXR files are read by the package OpenEXR, which is not installed: pip install OpenEXR" in refusal(
        path
    )
    assert "megapixels" in refusal(Encoded(exr(10**6, 10**6), "b"))
    assert "b: damaged EXR; its header states no size" in refusal(Encoded(exr()[:20], "b"))
    assert "b: the image has no pixels" in refusal(Encoded(exr(0, 5), "b"))


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"V": METRES}, None),
        ({"ViewLayer.Depth.Z": METRES, "ViewLayer.Combined.R": METRES * 2}, None),
        ({"R": METRES, "G": METRES, "B": METRES}, None),
        ({"R": METRES, "G": METRES * 2, "B": METRES}, "has the channels R, G, B; which is depth?"),
        ({"U": METRES, "W": METRES}, "has the channels U, W; which is depth?"),
    ],
)
def test_channels_of_exr(channels, message, tmp_path, monkeypatch):
    class File:
        def __init__(self, name, separate_channels):
            assert name.endswith("a.exr") and separate_channels

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def channels(self):
            return {name: SimpleNamespace(pixels=np.nan_to_num(values)) for name, values in channels.items()}

    monkeypatch.setitem(sys.modules, "OpenEXR", SimpleNamespace(File=File))
    (tmp_path / "a.exr").write_bytes(exr())
    if message:
        assert message in refusal(tmp_path / "a.exr")
    else:
        assert read_depth_array(tmp_path / "a.exr").tolist() == [[1.5, 2], [0, 0]]


def test_a_header_that_never_ends_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(2**22))
    assert "a header of 2,147,483,648 bytes" in refusal(tmp_path / "a.npz")
    with (tmp_path / "b.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (2, 2), "fortran_order": False, "descr": "<f4"})
        file.truncate(2**33)  # takes no room on most disks, and must take none in memory
    assert "damaged NumPy file" in refusal(tmp_path / "b.npy")
