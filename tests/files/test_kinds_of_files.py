"""What a file holds, whatever it is called: read where it can be, named where it cannot."""

import io
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin, features
from PIL.PngImagePlugin import PngInfo

from tiff_files import grey_tiff
from vpd.errors import UsageError
from vpd.files.decoding import Encoded, decode_file
from vpd.files.images import IMAGE_SUFFIXES, read_depth, read_image, read_labels, read_picture

LIMITS = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(png: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    """A PNG with more chunks after its header, or after its pixels."""
    at = len(png) - 12 if at_end else 33
    return png[:at] + b"".join(chunks) + png[at:]


def depth_png() -> bytes:
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt("metres_per_step", "0.00390625")
    Image.fromarray(np.full((4, 6), 512, np.uint16)).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


BOMB = zlib.compress(bytes(30_000_000), 9)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"zTXt", b"Comment\0\0" + BOMB)],
        [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)],
        [chunk(b"iCCP", b"profile\0\0" + BOMB)],
        [chunk(b"tEXt", b"Comment\0" + bytes(2_000_000))] * 40,
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
def test_much_text_is_no_damage(tmp_path: Path, chunks: list[bytes], at_end: bool):
    content = with_chunks(depth_png(), *chunks, at_end=at_end)
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", Encoded(content, "a.png in an archive")):
        assert read_image(source).size == (6, 4)
        assert (read_depth(source) == 2).all()  # its own text is still read
    assert (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY) == LIMITS


def test_a_picture_with_much_text_that_is_cut_off_stays_damaged(tmp_path: Path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "png")
    content = with_chunks(buffer.getvalue(), chunk(b"zTXt", b"Comment\0\0" + BOMB))
    (tmp_path / "a.png").write_bytes(content[:-2000])
    with pytest.raises(UsageError, match=r"a\.png: cannot be read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "TIF", "dib"])
def test_other_names_of_known_formats(tmp_path: Path, suffix: str):
    kind = {"dib": "bmp", "TIF": "tiff"}.get(suffix, "jpeg")
    Image.new("RGB", (6, 4), "red").save(tmp_path / f"a.{suffix}", kind)
    assert f".{suffix.lower()}" in IMAGE_SUFFIXES and read_image(tmp_path / f"a.{suffix}").size == (6, 4)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_is_read_within_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.avif")
    assert ".avif" in IMAGE_SUFFIXES and read_image(tmp_path / "a.avif").size == (64, 48)
    monkeypatch.setattr("vpd.files.decoding.MAX_PIXELS", 1000)
    with pytest.raises(UsageError, match="64x48: 0 megapixels; the limit"):
        read_image(tmp_path / "a.avif")


class Heif(ImageFile.ImageFile):
    """Stands for the class of pillow-heif."""

    format = "HEIF"

    def _open(self) -> None:
        self._size, self._mode = (8, 6), "RGB"

    def load(self) -> None:
        self.im = Image.new("RGB", self.size, "red").im


def test_heif_needs_a_package_and_is_read_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50))
    with pytest.raises(UsageError, match=r"holds HEIF though it is named \.jpg; to read it: pip install pillow-heif"):
        decode_file(tmp_path / "a.jpg", ("PNG", "JPEG"))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(HeifImageFile=Heif))
    assert decode_file(tmp_path / "a.jpg", ("PNG", "JPEG", "HEIF")).image.getpixel((3, 3)) == (255, 0, 0)
    monkeypatch.setattr("vpd.files.decoding.MAX_PIXELS", 40)
    with pytest.raises(UsageError, match="8x6"):
        decode_file(tmp_path / "a.jpg", ("PNG", "JPEG", "HEIF"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GIF89a" + bytes(20), "holds GIF though it is named .png; save its frames as PNG; read are PNG, JPEG"),
        (b"\0\0\0\x1cftypisom\0\0\0\0isommp42" + bytes(20), "holds a video"),
        (b"%PDF-1.7", "holds PDF"),
        (b"  <!DOCTYPE HTML><html>", "holds a web page though it is named .png; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "holds a pointer of Git LFS.*git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged"),
        (b"II*\0\x08\0\0\0", "damaged TIFF"),
        (b"what is this", r"not an image that can be read here \(PNG, JPEG"),
    ],
)
def test_messages_say_what_was_found(tmp_path: Path, content: bytes, said: str):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UsageError, match=rf"a\.png: .*{said}"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_labels_and_depth_in_lossy_files_are_refused(tmp_path: Path, kind: str):
    Image.new("L", (8, 8)).save(tmp_path / "a.png", kind)
    for read in (read_labels, read_depth):
        with pytest.raises(
            UsageError, match=f"holds {kind.upper()} though it is named .png, whose values are not kept"
        ):
            read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("tags", "dtype", "said"),
    [
        ({277: 3}, np.float16, "float16 colour, 3 channels"),
        ({277: 5}, np.uint8, "uint8 colour, 5 channels"),
        ({258: 14}, np.uint16, "uint14 grey"),
        ({258: 64}, np.int64, "int64 grey"),
    ],
)
def test_kinds_of_tiff_that_cannot_be_read_are_named(tmp_path: Path, tags: dict[int, int], dtype: type, said: str):
    (tmp_path / "a.tif").write_bytes(grey_tiff(np.zeros((4, 6), dtype), tags=tags))
    with pytest.raises(UsageError, match=f"a TIFF of a kind that cannot be read: {said}"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["webp", "tif", "png"])
def test_later_frames_are_noted(tmp_path: Path, suffix: str):
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True)
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert (picture.frames, picture.notes) == (2, ("first of 2 frames",))
    assert picture.image.getpixel((3, 3)) == (255, 0, 0)


def test_a_tiff_whose_pictures_go_in_a_circle_is_read(tmp_path: Path):
    content = grey_tiff(np.full((4, 6), 65535, np.uint16))
    end = 8 + 2 + 12 * 10
    (tmp_path / "a.tif").write_bytes(content[:end] + struct.pack("<I", 8) + content[end + 4 :])
    assert read_picture(tmp_path / "a.tif").frames == 1
