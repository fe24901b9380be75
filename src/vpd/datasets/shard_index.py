"""Where each file of a row of tar archives begins, so that any sample can be read at once."""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.walk import is_foreign

logger = logging.getLogger(__name__)

PARTS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("labels.png", "seg.png"), "labels"),
    **dict.fromkeys(("depth.png", "depth.tif", "depth.tiff", "depth.npy"), "depth"),
    **dict.fromkeys(("mask.png",), "mask"),
    **dict.fromkeys(("txt",), "txt"),
    **dict.fromkeys(("json",), "json"),
}
"""What follows the first dot of a file's name -> part of a sample; other files are passed over."""
SLOTS = tuple(dict.fromkeys(PARTS.values()))
"""The parts, in the order of `ShardIndex.places`."""

_MOST_BYTES = {"txt": 2**24, "json": 2**24}
_MOST_PICTURE_BYTES = 2**29
_LONGEST_KEY = 1000
_BLOCK = 512
_VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """Where the files of every sample lie."""

    shards: tuple[Path, ...]
    """The archives."""
    keys: NDArray[np.bytes_]
    """`(samples,)` what the names of a sample's files share, UTF-8."""
    shard_of: NDArray[np.int64]
    """`(samples,)` place among `shards`."""
    places: NDArray[np.int64]
    """`(samples, slots, 2)` first byte and number of bytes of each part; -1 = the sample has none."""

    def name(self, sample: int) -> str:
        """Unique name of a sample: archive and key."""
        return f"{self.shards[self.shard_of[sample]].stem}/{self.keys[sample].decode()}"


def build_index(shards: Sequence[Path], cache: Path) -> ShardIndex:
    """Index of archives: the one in `cache` if it is of just these archives, else a new one, which is kept there.

    Args:
        shards: Tar archives, not compressed.
        cache: File for the index; where none can be written, the next run makes it anew.

    Raises:
        UsageError: If an archive cannot be read or is damaged, or a file in it is impossible; it is named.
    """
    table = [[shard.name, shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards]
    description = json.dumps({"version": _VERSION, "slots": SLOTS, "shards": table})
    if (kept := _read_cache(cache, description, tuple(shards))) is not None:
        return kept
    logger.info("Indexing %d archives in %s.", len(shards), cache.parent)
    keys: list[bytes] = []
    shard_of: list[int] = []
    places: list[list[tuple[int, int]]] = []
    for number, shard in enumerate(shards):
        of_key: dict[str, list[tuple[int, int]]] = {}
        for key, part, place in _files(shard):
            slots = of_key.setdefault(key, [(-1, -1)] * len(SLOTS))
            slot = SLOTS.index(part)
            if slots[slot] != (-1, -1):
                raise UsageError(f"{shard}: {key} has two files for {part}; keys must differ within an archive")
            slots[slot] = place
        keys += [key.encode() for key in of_key]
        shard_of += [number] * len(of_key)
        places += of_key.values()
    index = ShardIndex(
        tuple(shards),
        np.array(keys, dtype=np.bytes_),
        np.array(shard_of, dtype=np.int64),
        np.array(places, dtype=np.int64).reshape(len(keys), len(SLOTS), 2),
    )
    _write_cache(cache, description, index)
    return index


def _files(shard: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, part, and place of each file of an archive that is part of a sample."""
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:", encoding="utf-8", errors="strict") as archive:
            while (member := archive.next()) is not None:
                end = member.offset_data + member.size
                if member.size < 0 or end > size:
                    raise UsageError(f"{shard}: damaged; {member.name} would end at byte {end:,} of {size:,}")
                folder, slash, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                part = PARTS.get(suffix.lower())
                if part is None or not stem or not member.isreg() or member.issparse():
                    continue
                if member.size > (most := _MOST_BYTES.get(part, _MOST_PICTURE_BYTES)):
                    raise UsageError(f"{shard}: {member.name} has {member.size:,} bytes; the limit is {most:,}")
                key = f"{folder}{slash}{stem}".removeprefix("./")
                yield _checked_key(key, shard), part, (member.offset_data, member.size)
            _check_end(shard, archive.offset)
    except UsageError:
        raise
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise UsageError(f"{shard}: not a whole tar archive ({str(error)[:200]})") from error


def _checked_key(key: str, shard: Path) -> str:
    leads_out = key.startswith("/") or ".." in key.split("/")
    if leads_out or len(key.encode()) > _LONGEST_KEY or not key.isprintable():
        raise UsageError(f"{shard}: {key[:100]!r} cannot be the name of a sample")
    return key


def _check_end(shard: Path, offset: int) -> None:
    """An archive ends with empty blocks; `tarfile` also stops, without a word, at anything that is no header."""
    with shard.open("rb") as file:
        file.seek(offset)
        if any(file.read(_BLOCK)):
            raise UsageError(f"{shard}: damaged after byte {offset:,}; write or download it anew")


def _read_cache(cache: Path, description: str, shards: tuple[Path, ...]) -> ShardIndex | None:
    """The index in a file, or none where it is of other archives, not whole, or not as it is written here.

    It comes with the archives, perhaps from somebody else, so it is believed no more than they are.
    """
    try:
        with np.load(cache, allow_pickle=False) as stored:
            if sum(entry.file_size for entry in stored.zip.infolist()) > cache.stat().st_size:  # it never is packed
                return None
            if bytes(stored["description"]).decode() != description:
                return None
            index = ShardIndex(shards, stored["keys"], stored["shard_of"], stored["places"])
        count = len(index.keys)
        is_whole = (
            index.keys.dtype.kind == "S"
            and index.shard_of.shape == (count,)
            and index.places.shape == (count, len(SLOTS), 2)
            and index.shard_of.dtype == index.places.dtype == np.int64
            and (not count or (index.shard_of.min() >= 0 and index.shard_of.max() < len(shards)))
            and bool((index.places >= -1).all() and (index.places <= [2**62, _MOST_PICTURE_BYTES]).all())
        )
        for key in index.keys:
            _checked_key(key.decode(), cache)
    except Exception:  # a damaged file raises every kind of exception
        return None
    return index if is_whole else None


def _write_cache(cache: Path, description: str, index: ShardIndex) -> None:
    try:
        if not cache.parent.stat().st_mode & 0o222:  # root may write here all the same, but somebody locked it
            return
        with atomic_write(cache) as temporary:
            np.savez(
                temporary,
                description=np.frombuffer(description.encode(), dtype=np.uint8),
                keys=index.keys,
                shard_of=index.shard_of,
                places=index.places,
            )
    except OSError as error:
        logger.info("The index of the archives is not kept: %s.", error)


def shard_files(root: Path) -> dict[str, list[Path]]:
    """Archives by split: `{split}-000000.tar` in the folder, or numbered archives in a sub-folder called so."""
    files: dict[str, list[Path]] = {}
    for path in sorted([*root.glob("*.tar"), *root.glob("*/*.tar")]):
        numbered = re.fullmatch(r"(?:(.+)[-_])?\d+", path.stem)
        if numbered and not any(map(is_foreign, path.relative_to(root).parts)):
            split = path.parent.name if path.parent != root else numbered.group(1) or "train"
            files.setdefault(split, []).append(path)
    return files
