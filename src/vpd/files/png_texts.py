"""PNG files without the texts and colour profiles that Pillow refuses to unpack."""

from __future__ import annotations

import io
import struct
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PACKED = (b"zTXt", b"iCCP")
_TEXTS = (b"tEXt", b"iTXt")
_MOST_KEPT_BYTES = 2**16


def without_packed_texts(file: IO[bytes]) -> IO[bytes]:
    """The same picture without its colour profile and all texts but short ones that are not compressed.

    What is left out is passed over, neither read nor unpacked: a few bytes may unpack to gigabytes. Everything else
    keeps its bytes, check sums included; a file that is cut off stays so.
    """
    kept, texts_bytes = [file.read(len(SIGNATURE))], 0
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _PACKED or (kind in _TEXTS and texts_bytes + length > _MOST_KEPT_BYTES):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        content = file.read(length + 4)
        if kind in _TEXTS:
            _, _, rest = content.partition(b"\0")
            if kind == b"iTXt" and rest[:1] != b"\0":  # compressed
                continue
            texts_bytes += length
        kept += [head, content]
    return io.BytesIO(b"".join([*kept, head]))
