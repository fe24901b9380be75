"""Runs a page as a reader would: python run_page.py PAGE CACHE, in an empty folder.

Bash blocks run by themselves, Python blocks one after the other in one interpreter. Errors name the page's own lines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import page_setups
from page_blocks import Block, Setup, read_page

STARTS_S, STOPS_S = 600, 60
"""How long a server may take to answer, and to stop."""
CUT = 'vpd() { if [ "${1-}" = train ]; then set -- "$@" -s steps=STEPS; fi; command vpd "$@"; }\n'
"""Stands before a block whose trainings shall be short."""


def run_page(page: Path, cache: Path) -> None:
    """Run all that is to be run, in the folder that this process is in.

    Raises:
        Exception: Whatever the page's Python raises; `CalledProcessError` for its Bash.
    """
    module: dict[str, Any] = {"__name__": "__main__"}
    with ExitStack() as at_the_end:
        for part in read_page(page.read_text(encoding="utf-8")):
            if isinstance(part, Setup):
                page_setups.make(part, Path.cwd(), cache=cache)
            elif part.parsed_only:
                continue
            elif part.language == "python":
                # empty lines above make line numbers those of the page
                exec(compile("\n" * (part.line - 1) + part.code, str(page), "exec"), module)
            elif part.serves:
                at_the_end.callback(_stop, _serve(part))
            else:
                _bash(part, page)


def _bash(block: Block, page: Path) -> None:
    print(f"--- {page.name}, line {block.line}", flush=True)
    cut = CUT.replace("STEPS", block.steps) if block.steps else ""
    subprocess.run(["bash", "-euo", "pipefail", "-c", cut + block.code], check=True, stdin=subprocess.DEVNULL)


def _serve(block: Block) -> subprocess.Popen[bytes]:
    """Start what goes on running, and wait until it answers."""
    if _answers(block.serves):
        raise RuntimeError(f"line {block.line}: {block.serves} answers already; another program listens there")
    server = subprocess.Popen(["bash", "-euo", "pipefail", "-c", block.code], start_new_session=True)
    until = time.monotonic() + STARTS_S
    while not _answers(block.serves):
        if server.poll() is not None or time.monotonic() > until:
            _stop(server)
            raise RuntimeError(f"line {block.line}: {block.serves} does not answer")
        time.sleep(0.2)
    return server


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(STOPS_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        raise


if __name__ == "__main__":
    run_page(Path(sys.argv[1]), Path(sys.argv[2]))
