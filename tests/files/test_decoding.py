import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from vpd.errors import UsageError
from vpd.files.images import read_image, read_labels

RED = (250, 20, 10)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header claims a size; its data are one zero byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def small_grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Grey PNG with 1, 2 or 4 bits a pixel, which Pillow cannot write itself."""
    height, width = values.shape
    spread = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in spread)
    header = png_header(width, height, bits, 0)
    start, data = header.index(b"IDAT") - 4, zlib.compress(rows)
    chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    path.write_bytes(header[:start] + chunk + end)


# Colour modes


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (6, 4), RED).save(tmp_path / f"a.{suffix}", quality=100)
    image = read_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.subtract(pixel(image), RED)).max() <= 6


def test_cmyk_jpeg_has_its_colours(tmp_path):
    """Pillow writes CMYK inverted with the Adobe marker, as Photoshop does; white must stay white."""
    cmyk = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    cmyk.paste((0, 255, 255, 0), (0, 0, 8, 16))
    cmyk.save(tmp_path / "a.jpg", quality=95)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    image = read_image(tmp_path / "a.jpg")
    assert np.abs(np.subtract(pixel(image, 2, 8), (255, 0, 0))).max() < 20
    assert min(pixel(image, 14, 8)) > 240


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert np.asarray(read_image(tmp_path / name))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_rgb(tmp_path):
    header = png_header(1, 1, 16, 2)
    data = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 32896, 0))
    at = header.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    (tmp_path / "a.png").write_bytes(header[:at] + chunk + header[-12:])
    assert pixel(read_image(tmp_path / "a.png")) == (255, 128, 0)


def test_big_endian_16_bit_tiff(tmp_path):
    Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 65535, 257)).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, :, 1].tolist() == [255, 1]
    assert read_labels_error(tmp_path / "a.tif").startswith(str(tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.5, 1.2], [0, 128, 255]),  # overexposed
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([-5.0, 32896.0, 65535.0], [0, 128, 255]),
        ([0.0, 502_000.0, 1_000_000.0], [0, 128, 255]),
        ([np.nan, np.inf, 1.0], [0, 0, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_float_tiff(tmp_path, values, expected):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, :, 2].tolist() == expected


def test_32_bit_integers(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32)).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 128, 255]


def test_palette_shows_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "transparent.png", transparency=1)
    assert pixel(read_image(tmp_path / "a.png"), 1) == (0, 0, 255)
    assert [pixel(read_image(tmp_path / "transparent.png"), x) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_transparent_parts_are_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 255), (*RED, 0), (0, 0, 0, 128)])
    image.save(tmp_path / "a.png")
    image.convert("LA").save(tmp_path / "grey.png")
    shown = [pixel(read_image(tmp_path / "a.png"), x) for x in range(3)]
    assert shown[:2] == [RED, (255, 255, 255)]
    assert shown[2] == (127, 127, 127)
    assert pixel(read_image(tmp_path / "grey.png"), 1) == (255, 255, 255)
    keyed = Image.new("RGB", (1, 1), RED)
    keyed.save(tmp_path / "keyed.png", transparency=RED)
    assert pixel(read_image(tmp_path / "keyed.png")) == (255, 255, 255)


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    assert [pixel(read_image(tmp_path / "a.png"), x)[0] for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    """A picture with a red top left corner comes out so, however its pixels are stored."""
    upright = Image.new("RGB", (48, 32))
    upright.paste(RED, (0, 0, 16, 16))
    inverse = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    inverse(upright).save(path, exif=exif, quality=95)
    for image in (read_image(path), read_image(Image.open(path)), read_image(read_image(path))):
        assert image.size == (48, 32)
        assert pixel(image, 4, 4)[0] > 200 and max(pixel(image, 40, 4)[0], pixel(image, 4, 28)[0]) < 60


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09junk")
    assert read_image(tmp_path / "a.jpg").size == (8, 8)


def test_arrays_and_pil_images():
    rgb = np.full((4, 6, 3), RED, dtype=np.uint8)
    assert np.array_equal(np.asarray(read_image(rgb)), rgb)
    assert np.array_equal(np.asarray(read_image(rgb[:, ::-1])), rgb)
    assert pixel(read_image(np.full((4, 6), 65535, dtype=np.uint16))) == (255, 255, 255)
    assert pixel(read_image(np.zeros((4, 6, 4), dtype=np.uint8))) == (255, 255, 255)
    assert pixel(read_image(Image.new("L", (2, 2), 7))) == (7, 7, 7)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((4,), np.uint8)])
def test_other_arrays_are_refused(array):
    with pytest.raises(UsageError, match="must be uint8 or uint16"):
        read_image(array)


# Bad files


def message(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        read_image(path)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and len(text) < 400
    return text


def read_labels_error(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        read_labels(path)
    return str(error.value)


def test_bad_files(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture at all")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    photo = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(photo, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(photo.getvalue()[: len(photo.getvalue()) // 2])
    assert "no such file" in message(tmp_path / "missing.png")
    assert "not a file" in message(tmp_path)
    assert "empty" in message(tmp_path / "empty.png")
    assert "not an image that can be read here (PNG, JPEG" in message(tmp_path / "text.png")
    assert "holds PostScript though it is named .png" in message(tmp_path / "script.png")
    assert "truncated" in message(tmp_path / "cut.jpg")
    assert "cannot be read" in message(tmp_path / ("n" * 300 + ".png"))


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 10_001), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_decoding(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "megapixels; the limit is 120" in message(tmp_path / "bomb.png")


def test_the_limit_itself_passes(tmp_path):
    """An image of the largest size is tried (and its missing data noticed)."""
    (tmp_path / "large.png").write_bytes(png_header(12_000, 10_000, 1, 0))
    assert "cannot be read" in message(tmp_path / "large.png")


def test_images_without_pixels(tmp_path):
    (tmp_path / "none.png").write_bytes(png_header(0, 5))
    assert "none.png" in message(tmp_path / "none.png")
    with pytest.raises(UsageError, match=r"no pixels \(0x3\)"):
        read_image(np.zeros((3, 0, 3), dtype=np.uint8))


def test_pil_images_of_truncated_files(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=r"cut\.jpg: mode L cannot be turned into RGB \(image file is truncated"):
        read_image(Image.open(tmp_path / "cut.jpg"))


def test_phone_photos_of_two_pictures(tmp_path):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8))
    first.save(tmp_path / "a.jpg", "mpo", save_all=True, append_images=[second])
    assert pixel(read_image(tmp_path / "a.jpg"))[0] > 200


@pytest.fixture(scope="session")
def valid_files() -> list[bytes]:
    files = []
    for kind, mode in (("png", "P"), ("jpeg", "RGB"), ("webp", "RGBA"), ("tiff", "RGB"), ("bmp", "L")):
        buffer = io.BytesIO()
        Image.effect_noise((24, 20), 60).convert(mode).save(buffer, kind)
        files.append(buffer.getvalue())
    return files


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0, 1))
def test_damaged_files_give_a_picture_or_one_line(tmp_path, valid_files, which, changes, kept):
    data = bytearray(valid_files[which])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    path = tmp_path / "damaged"
    path.write_bytes(data[: max(1, int(len(data) * (0.5 + kept)))])
    try:
        assert read_image(path).mode == "RGB"
    except UsageError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_icc_profile_of_another_size_is_harmless(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (3, 2), 9).save(tmp_path / "a.png", icc_profile=profile)
    assert pixel(read_image(tmp_path / "a.png")) == (9, 9, 9)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_are_not_spread(tmp_path, bits):
    values = np.arange(2**bits, dtype=np.uint8)[None]
    small_grey_png(tmp_path / "a.png", values, bits)
    assert np.array_equal(read_labels(tmp_path / "a.png"), values)
