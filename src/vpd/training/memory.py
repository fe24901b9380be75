"""Main memory of this process, as Linux tells it: how much it has taken at most, and how much it may still take."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

_PROCESS, _SYSTEM, _GROUP = Path("/proc/self"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that may still be taken without swapping; none where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in _SYSTEM.read_text().splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    most, used = (_number(_GROUP / name) for name in ("memory.max", "memory.current"))
    return left if most is None or used is None else min(left, max(0, most - used))


def restart_peak() -> int | None:
    """Forget what was taken at most so far; returns what is taken now, or none where the system does not tell."""
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)  # or what was freed is taken again without being noticed
    try:
        (_PROCESS / "clear_refs").write_text("5")
        return _own_bytes("VmRSS")
    except OSError:
        return None


def peak_bytes() -> int:
    """What was taken at most since `restart_peak`."""
    return _own_bytes("VmHWM")


def _own_bytes(name: str) -> int:
    """A count of this process's memory without pages of files (libraries), which come and go as the system likes."""
    lines = dict(line.split(":", 1) for line in (_PROCESS / "status").read_text().splitlines())
    kilobytes, of_files = (int(lines[key].split()[0]) for key in (name, "RssFile"))
    return (kilobytes - of_files) * 1024


def _number(path: Path) -> int | None:
    """What a control group says of itself; none where there is none, or it has no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
