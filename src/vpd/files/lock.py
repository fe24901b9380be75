"""One run at a time in a folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpd.errors import UsageError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
"""In the folder of a run. It stays when the run ends; what counts is whether a process holds it."""
_HELD = (errno.EAGAIN, errno.EACCES)
_LOCKED_BYTE = 2**30
"""Which byte Windows locks: far behind what is written, as nobody may read what is locked there."""


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold a folder, so that no other run writes into it; the hold ends with the process, however that ends.

    It is a lock of the system's (`flock`, which Linux hands on to the server for folders on NFS; `msvcrt.locking` on
    Windows). Where a file system has none, a warning says so, and nothing is held. The folder must exist.

    Raises:
        UsageError: If another run holds it; says which.
    """
    path = folder / LOCK_FILE
    with path.open("a+") as file:  # not emptied: what the holder wrote must be readable
        try:
            _hold(file.fileno())
        except OSError as error:
            if error.errno in _HELD:
                raise UsageError(_describe(folder, path)) from None
            logger.warning("%s cannot be held (%s): start no second run in %s.", path, error.strerror, folder)
        else:
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            file.truncate(0)
            file.write(json.dumps(holder) + "\n")
            file.flush()
        yield


def _hold(descriptor: int) -> None:
    """Lock an open file until it is closed; an `OSError` if it cannot be had at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _describe(folder: Path, path: Path) -> str:
    """Who holds a folder, and what to do."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        who = "another process"
    return (
        f"A run is under way in {folder} ({who}); two would write over each other's checkpoints. Wait until it ends, "
        "stop it by SIGTERM (it saves first), or give another folder."
    )
