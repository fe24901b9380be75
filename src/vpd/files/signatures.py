"""What a file that cannot be read holds, told from its first bytes; for messages."""

from __future__ import annotations

HEAD_BYTES = 64
"""How many of its first bytes are needed."""

_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"GIF8": "GIF",
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"v/1\x01": "OpenEXR",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xffO\xffQ": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\n": "JPEG XL",
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}
_BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
LOSSY = ("JPEG", "WEBP", "AVIF", "HEIF")
"""Formats that change values, or mostly do."""
_REMEDIES = {
    "AVIF": "to read it: pip install --upgrade pillow (11.3 or newer)",
    "HEIF": "to read it: pip install pillow-heif",
    "GIF": "save its frames as PNG",
    "a pointer of Git LFS": "fetch the file itself: git lfs pull",
    "a web page": "download it again",
}


def found_format(head: bytes) -> str | None:
    """Name of the format that a file begins like, or what else it is; none = unknown."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {head[at : at + 4] for at in (8, *range(16, min(len(head), int.from_bytes(head[:4], "big")), 4))}
        return next((name for name, own in _BRANDS.items() if brands & set(own)), "a video")
    text = head.lstrip().lower()
    starts = (name for start, name in _STARTS.items() if head.startswith(start) or text.startswith(start))
    return next(starts, None)


def remedy(found: str, formats: tuple[str, ...]) -> str:
    """What to do about a file that holds another format than those which are read, as the end of a sentence."""
    known = ", ".join(formats)
    if found in LOSSY and not set(LOSSY) & set(formats):
        return f", whose values are not kept: write them anew as one of {known}"
    return f"; {_REMEDIES.get(found, 'save it as PNG')}; read are {known}"
