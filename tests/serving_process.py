"""`vpd app` as a process of its own, as users start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen


class App:
    """A running `vpd app`."""

    def __init__(self, process: subprocess.Popen[str], url: str, said: list[str]) -> None:
        self.process, self.url, self.said = process, url, said

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def memory_bytes(self) -> float:
        """What the process holds, as it says itself."""
        with urlopen(f"{self.url}/metrics") as answer:
            found = re.search(r"^process_resident_memory_bytes (\S+)", answer.read().decode(), re.MULTILINE)
        assert found
        return float(found[1])

    def stop(self, timeout_s: float = 120) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def running_app(*options: str | Path, temporary: Path, proxy: str = "") -> Iterator[App]:
    """Start it at a free port, with a folder for temporary files, and wait until it says that it is ready.

    Whatever it asks of the network comes to `proxy`, if there is one.
    """
    command = [sys.executable, "-m", "vpd", "app", "--port", "0", *map(str, options)]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy) if proxy else {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "HTTP:" in line:
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert ready.wait(600), "".join(said)
        found = re.search(r"(http://\S+:\d+)/", "".join(said))
        assert found, "".join(said)
        yield App(process, found[1], said)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        listener.join(10)
