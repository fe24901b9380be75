"""Tar archives of samples, as webdataset writes them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = np.eye(6, 8, dtype=np.uint8)


def encode(values: Any, suffix: str) -> bytes:
    file = io.BytesIO()
    if suffix == "json":
        return json.dumps(values).encode()
    if suffix == "txt":
        return values.encode()
    if suffix.endswith("npy"):
        np.save(file, values)
    else:
        Image.fromarray(values).save(file, format={"jpg": "JPEG", "webp": "WebP"}.get(suffix, "PNG"))
    return file.getvalue()


def colours(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def write(path: Path, samples: dict[str, dict[str, Any]]) -> Path:
    """An archive; values that are bytes are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, parts in samples.items():
            for suffix, values in parts.items():
                content = values if isinstance(values, bytes) else encode(values, suffix)
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder: Path) -> Path:
    """Two archives of label pictures, with files that are no part of a sample, and their class list."""
    first = {"0001": {"png": colours(1), "labels.png": LABELS, "cls": b"3"}, "sub/0002": {"png": colours(2)}}
    first["sub/0002"]["SEG.png"] = LABELS
    write(folder / "train-000000.tar", first)
    write(folder / "train-000001.tar", {"0001": {"jpg": colours(3), "labels.png": LABELS}})
    (folder / "classes.txt").write_text("sky\nline\n")
    return folder
