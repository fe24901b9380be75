"""Programs in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import vpd

HERE = Path(__file__).parent


def start_torchrun(processes: int, *words: object, log: Path | None = None) -> subprocess.Popen[str]:
    """Start a program; what it says goes into a file, if there is one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *words]
    paths = [HERE, HERE.parent, Path(vpd.__file__).parents[1]]  # the sources that the tests test
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment["PYTHONFAULTHANDLER"] = "1"  # a process that dies in native code tells where it was
    output = subprocess.PIPE if log is None else log.open("a")
    return subprocess.Popen(
        [str(word) for word in command],
        env=environment,
        stdout=output,
        stderr=subprocess.PIPE if log is None else subprocess.STDOUT,
        text=True,
    )


def torchrun(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    running = start_torchrun(processes, *words)
    out, error = running.communicate(timeout=600)
    return subprocess.CompletedProcess(running.args, running.returncode, out, error)


def descendants(process: int) -> list[int]:
    """Processes that a process started, and those that these started, from /proc."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found = list(children.get(process, []))
    for child in found:
        found += children.get(child, [])
    return found


def is_running(process: int) -> bool:
    """Whether a process is there and not only its entry, which nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_tree(running: subprocess.Popen[str]) -> None:
    """SIGKILL a program and everything that it started."""
    for process in (*descendants(running.pid), running.pid):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    running.wait(60)


def wait_until(is_so: Callable[[], bool], what: str, *, running: subprocess.Popen[str] | None = None) -> None:
    """Wait until something is so, at most two minutes, and no longer than a program runs."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, what
        assert running is None or running.poll() is None, f"{what}: it ended with {running.returncode}"
        time.sleep(0.05)
