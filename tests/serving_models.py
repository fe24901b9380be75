"""Tiny models, and pictures, for tests of the service."""

from __future__ import annotations

import importlib.util
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from tiny import CLASSES
from vpd.config import Resize


def tiny_models(diffusion: Path) -> dict[str, Any]:
    """One a task, at 64 px."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"head_channels": 8}
    fit = Resize(size_px=64, max_long_px=256)
    return {
        "segment": vpd.SegmentationModel.from_diffusion(diffusion, classes=CLASSES, head="open", fit=fit, **small),
        "refer": vpd.ReferringModel.from_diffusion(
            diffusion, token_length=8, fit=Resize(mode="squash", size_px=64), **small
        ),
        "depth": vpd.DepthModel.from_diffusion(
            diffusion, scenes=("kitchen", "hall"), fit=fit, feature_channels=16, deconv_channels=(8, 8, 8), **small
        ),
    }


def picture_bytes(width: int = 80, height: int = 64, *, seed: int = 0, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def needs(*packages: str) -> None:
    """Skip a module of tests where a package is missing."""
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (extra `test-extras`)", allow_module_level=True)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, content: bytes, *extra: bytes) -> bytes:
    """A PNG that says what it likes of its size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def malformed(count: int) -> Iterator[tuple[str, bytes]]:
    """Files that are no pictures, or not the ones that they say they are."""
    draw = random.Random(0)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 50_000_000)
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    fixed = [
        b"", b"\0", b"x" * 1000, b"GIF89a" + b"\0" * 50, b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4", zipped.getvalue(), png_of(2**31 - 1, 2**31 - 1, b""), png_of(60_000, 60_000, bomb),
        png_of(0, 0, b""), png_of(64, 64, bomb), png_of(64, 64, b"x"), png_of(400, 400, zlib.compress(b"")),
        png_of(64, 64, zlib.compress(b"\0" * 64 * 193), *(chunk(kind, b"a\0\0" + bomb) for kind in (b"zTXt", b"iCCP"))),
        b"BM" + b"\xff" * 60, b"II*\0" + b"\xff" * 60, b"MM\0*" + struct.pack(">I", 8) + b"\0\1" * 400,
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 40, b"\xff\xd8\xff\xe0" + b"\xff" * 400,
    ]  # fmt: skip
    good = [picture_bytes(48, 40, kind=kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")]
    for number in range(count):
        if number < len(fixed):
            yield f"fixed{number}", fixed[number]
            continue
        content = bytearray(draw.choice(good))
        for _ in range(draw.randint(1, 60)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        if draw.random() < 0.5:
            del content[draw.randrange(8, len(content)) :]
        yield f"../../fuzz{number}.png", bytes(content)
