"""Grey of more than 8 bits, as files and PIL images have it, becomes 8 bits by one rule."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiff_files import grey_tiff
from vpd.files.images import read_depth, read_image, read_picture

RAMP = np.linspace(0, 1, 64).repeat(8).reshape(64, 8).T  # (8, 64)


def levels(path: Path, **options: Any) -> np.ndarray:
    return np.asarray(read_image(path, **options))[..., 1].astype(int)


@pytest.mark.parametrize(
    ("dtype", "order"),
    [
        *((dtype, "<") for dtype in ("int8", "uint16", "int16", "uint32", "int32", "float16", "float32")),
        *((dtype, ">") for dtype in ("uint16", "int16", "int32", "float16", "float32")),
    ],
)
def test_a_ramp_over_the_whole_range_is_one(tmp_path: Path, dtype: str, order: str):
    values = RAMP.astype(dtype) if dtype.startswith("f") else np.round(RAMP * np.iinfo(dtype).max).astype(dtype)
    (tmp_path / "a.tif").write_bytes(grey_tiff(values, order=order))
    np.testing.assert_allclose(levels(tmp_path / "a.tif"), RAMP * 255, atol=1.6)
    assert (np.diff(levels(tmp_path / "a.tif", stretch=True)) >= 0).all()
    assert read_picture(tmp_path / "a.tif").notes == ()
    if dtype not in ("int8", "float16"):
        with Image.open(tmp_path / "a.tif") as image:
            assert np.array_equal(np.asarray(read_image(image))[..., 1], levels(tmp_path / "a.tif"))


def test_packed_12_bits_reach_white(tmp_path: Path):
    values = np.round(RAMP * 4095).astype(int)
    pairs = values.reshape(8, 32, 2)
    packed = np.stack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1)
    (tmp_path / "a.tif").write_bytes(grey_tiff(packed.astype(np.uint8).reshape(8, 96), bits=12))
    np.testing.assert_allclose(levels(tmp_path / "a.tif"), RAMP * 255, atol=1)


def test_white_may_be_zero(tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(grey_tiff((RAMP * 65535).astype(np.uint16), tags={262: 0}))
    np.testing.assert_allclose(levels(tmp_path / "a.tif"), 255 - RAMP * 255, atol=1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((7000 + RAMP * 450).astype(np.uint16), "uses 1 % of its range; stretch it by --stretch"),
        ((RAMP * 255).astype(np.int32), "uses less than 1 % of its range"),
        ((RAMP * 100 - 50).astype(np.int16), "48 % of its values are below 0, which is black; --stretch"),
        ((RAMP * 16383).astype(np.uint16), None),
        (np.full((4, 4), 700, np.uint16), None),
        (np.full((4, 4), np.nan, np.float32), None),
    ],
)
def test_a_picture_that_shows_little_is_noted_and_can_be_stretched(
    tmp_path: Path, values: np.ndarray, said: str | None
):
    (tmp_path / "a.tif").write_bytes(grey_tiff(values))
    notes = read_picture(tmp_path / "a.tif").notes
    assert said in notes[0] if said else not notes
    assert read_picture(tmp_path / "a.tif", stretch=True).notes == ()
    if said:
        stretched = levels(tmp_path / "a.tif", stretch=True)
        assert stretched.min() == 0 and stretched.max() == 255 and abs(stretched.mean() - 127) < 2
        assert (np.diff(stretched, axis=1) >= 0).all()


def test_stretching_leaves_few_pixels_out_and_8_bits_alone(tmp_path: Path):
    values = (20000 + RAMP * 1000).astype(np.uint16)
    values[0, 0], values[0, 1] = 0, 65535  # hot pixels
    stretched = np.asarray(read_image(values, stretch=True))[1, :, 0]
    assert stretched[0] == 0 and stretched[-1] == 255 and 120 < stretched[32] < 135
    Image.fromarray((RAMP * 10).astype(np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(levels(tmp_path / "a.png", stretch=True), levels(tmp_path / "a.png"))


def test_depth_of_unsigned_32_bits_keeps_its_values(tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(grey_tiff(np.array([[0, 3_000_000_000]], dtype=np.uint32)))
    assert read_depth(tmp_path / "a.tif").tolist() == [[0, 3_000_000]]


def test_palette_and_one_bit_are_no_deep_greys(tmp_path: Path):
    buffer = io.BytesIO()
    Image.fromarray(RAMP > 0.5).save(buffer, "png")
    with Image.open(buffer) as image:
        assert set(np.unique(np.asarray(read_image(image)))) == {0, 255}
