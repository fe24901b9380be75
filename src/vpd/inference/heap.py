"""The C library's memory for large tensors on CPUs: kept by the process, or given back after each.

glibc maps the memory of every tensor of more than 32 MB anew and gives it back when the tensor is gone, so that the
kernel fills it with zeros page by page: a fifth of the time of a prediction. Of smaller ones it keeps as much as they
took at most, which doubles what a pass takes. Nothing here is called by the library itself.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt, malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
_RETURN = {_TRIM_THRESHOLD: 2**20, _MMAP_THRESHOLD: 2**20, _MMAP_MAX: 65536}


def keep_heap() -> bool:
    """Let this process keep freed memory for its next tensors, some hundred MB; true if it does (glibc only)."""
    libc = _glibc()
    return libc is not None and _set(libc, _KEEP)


def return_heap() -> bool:
    """Let this process give back every tensor of 1 MB or more at once, 15 % slower; true if it does (glibc only).

    Then a prediction takes what its tensors take, which a budget (`memory`) counts on.
    """
    libc = _glibc()
    return libc is not None and _set(libc, _RETURN) and libc.malloc_trim(0) >= 0


def free_heap() -> bool:
    """Let it be as it was, and give back what is kept; true if it does."""
    libc = _glibc()
    return libc is not None and _set(libc, _DEFAULTS) and libc.malloc_trim(0) >= 0


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> bool:
    return all(libc.mallopt(option, value) == 1 for option, value in options.items())


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is the one that has `mallopt`."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
