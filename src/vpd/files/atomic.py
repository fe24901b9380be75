"""Files and folders that are either there in full or not there at all, and line files that survive a torn last line."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vpd.errors import UsageError, first_line

TEMPORARY_PREFIX = ".tmp-"
"""Start of the name of a file that is being written; a killed run may leave one behind."""
PARTIAL_PREFIX, REMOVING_PREFIX = ".partial-", ".removing-"
"""Starts of the names of folders that are being written, or removed; a killed run may leave one behind."""
_ABANDONED_S = 3600


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file so that a reader, or a crash at any moment, sees the old file or the new one whole.

    Yields:
        A temporary path in the same folder and with the same suffix, to be written by the caller. It becomes
        `path` when the block ends, and is removed when the block raises.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: there is no folder {path.parent}. Make it first.")
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner can read
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:  # a full disk, say: name the file the user knows
        if error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, remedy: str = "go on with --resume") -> Iterator[Path]:
    """Write a folder so that a crash at any moment leaves the old one, the new one, or none, but no part of one.

    Args:
        folder: The folder to make; one that is there already is replaced.
        remedy: What to do, once the disk has what it needs, where it cannot be written.

    Yields:
        An empty folder beside it to write into. It becomes `folder` when the block ends, and is removed when it raises.

    Raises:
        UsageError: If something cannot be written, as on a full disk.
    """
    partial = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        remove_folder(folder)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"Cannot write {folder}: {reason}. What was written before it is whole. Make room, or whatever else the "
            f"disk needs, and {remedy}."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a crash cannot leave a part of it under its name."""
    if folder.exists():
        doomed = folder.with_name(f"{REMOVING_PREFIX}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; numbers that are not finite become `null`."""
    contents = _encode(value, indent=2)
    with atomic_write(path) as temporary:
        temporary.write_bytes(contents + b"\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds; somebody may have written it by hand.

    Raises:
        UsageError: If it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # editors may begin it with a mark
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {first_line(error)}") from None


def append_json_line(path: str | Path, *values: Any) -> None:
    """Add a line for each value to a line file and force them to the disk; a line left torn is closed first."""
    path = Path(path)
    lines = b"".join(_encode(value) + b"\n" for value in values)
    try:
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    lines = b"\n" + lines
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of writing, it does not name the file
        error.filename = str(path)
        raise


def read_json_lines(path: str | Path) -> list[Any]:
    """Values of the lines of a line file, without torn ones; empty when there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError):  # empty, or torn
            values.append(json.loads(line))
    return values


def writable_folder(path: str | Path) -> Path:
    """The folder, made where it is missing, once it is certain that files can be written into it.

    Removes unfinished files that a killed run left in it more than an hour ago.

    Raises:
        UsageError: If it is a file, cannot be made, or takes no files.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not path.stat().st_mode & 0o222:  # root may write here all the same, but somebody locked it
            raise PermissionError("its permissions are read-only")
        probe = path / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        probe.touch()
        probe.unlink()
        for left in path.glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(FileNotFoundError):  # other processes write here too, and their files come and go
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
    except OSError as error:
        reason = "it is a file" if path.is_file() else error.strerror or str(error)
        raise UsageError(
            f"Cannot write into the folder {path}: {reason}. Give another folder, or change its permissions."
        ) from error
    return path


def check_writable(path: str | Path) -> None:
    """`writable_folder` before it is needed: what was not there before is not there afterwards.

    Raises:
        UsageError: If it is a file, cannot be made, or takes no files.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        writable_folder(path)
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def left_as_found(*folders: Path | None, is_work: Callable[[Path], bool] = lambda path: True) -> Iterator[None]:
    """Remove what a request that fails has made on its way, unless work came of it.

    Args:
        folders: That the block may make, with their parents, or put something into; none is passed over.
        is_work: Whether something new in one of them is worth keeping; then all of it stays.
    """
    given = [folder for folder in folders if folder is not None]
    there = {folder: set(folder.iterdir()) if folder.is_dir() else set[Path]() for folder in given}
    missing = {path for folder in given for path in (folder, *folder.parents) if not path.exists()}
    try:
        yield
    except (UsageError, OSError):
        for folder, before in there.items():
            new = set(folder.iterdir()) - before if folder.is_dir() else set()
            if not any(is_work(path) for path in new):
                for path in new:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(missing, key=lambda path: -len(path.parts)):
            with suppress(OSError):  # something is in it
                path.rmdir()
        raise


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk; folders only where the system can."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(value: Any, indent: int | None = None) -> bytes:
    """The value as JSON in UTF-8."""
    try:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # holds a file name that is not UTF-8 on disk
        return json.dumps(_finite(value), indent=indent, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by None; JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
