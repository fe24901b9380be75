"""TIFF files of kinds that Pillow does not write."""

import struct

import numpy as np


def grey_tiff(
    values: np.ndarray, *, order: str = "<", bits: int | None = None, tags: dict[int, int] | None = None
) -> bytes:
    """A TIFF of one strip that says what its numbers are; Pillow writes few kinds."""
    content = values.astype(values.dtype.newbyteorder(order)).tobytes() if bits is None else values.tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape if bits is None else (values.shape[0], values.shape[1] * 8 // bits)
    entries = {
        256: width,
        257: height,
        258: bits or 8 * values.dtype.itemsize,
        259: 1,
        262: 1,
        273: 8 + 2 + 12 * 10 + 4,
        277: 1,
        278: height,
        279: len(content),
        339: kind,
        **(tags or {}),
    }
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    rows = b"".join(
        struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, 1)
        + (struct.pack(f"{order}I", value) if tag in (273, 279) else struct.pack(f"{order}HH", value, 0))
        for tag, value in sorted(entries.items())
    )
    return head + rows + struct.pack(f"{order}I", 0) + content
