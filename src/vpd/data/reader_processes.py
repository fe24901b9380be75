"""Processes that begin from a clean server instead of as copies of the one that needs them.

Python's own fork server is left to whoever uses it: this one has other modules in memory, and signals that are sent to
whole groups of processes do not reach it, so that its readers go on until the process that they read for lets them go.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from functools import cache
from multiprocessing import resource_tracker, util
from multiprocessing.context import BaseContext
from typing import Any

_PRELOADED = ["vpd.data.batches", "vpd.datasets.layouts"]
"""What readers need, imported once by the server; torch is most of it."""
_MAIN = ("init_main_from_name", "init_main_from_path")


def reader_context(*, imports_main: bool) -> BaseContext:
    """Where processes that read samples come from.

    Args:
        imports_main: Whether they need what the main script defines; without, it may be any script.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    return _ImportingContext() if imports_main else _Context()


def start_reader_server() -> None:
    """Let the server that readers come from begin to import, which takes a second or more, and go on meanwhile."""
    if sys.platform != "win32":
        _ensure_running(_server(os.getpid()))


if sys.platform != "win32":
    from multiprocessing import forkserver, popen_forkserver, reduction, spawn
    from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen

    class _Popen(popen_forkserver.Popen):
        """Starts a process as the original does, from our server, and without the main script."""

        def _launch(self, process_obj: Any) -> None:
            preparation = spawn.get_preparation_data(process_obj.name)
            if not process_obj.imports_main:
                preparation = {key: value for key, value in preparation.items() if key not in _MAIN}
            buffer = io.BytesIO()
            set_spawning_popen(self)
            try:
                reduction.dump(preparation, buffer)
                reduction.dump(process_obj, buffer)
            finally:
                set_spawning_popen(None)
            server = _server(os.getpid())
            _ensure_running(server)
            self.sentinel, writing = server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
            # its other end tells the new process when this one is gone
            kept = os.dup(writing)
            self.finalizer = util.Finalize(self, util.close_fds, (kept, self.sentinel))  # type: ignore[attr-defined]
            with open(writing, "wb", closefd=True) as pipe:  # noqa: PTH123, a descriptor
                pipe.write(buffer.getbuffer())
            self.pid = forkserver.read_signed(self.sentinel)

    class _Process(ForkServerProcess):
        imports_main = False

        @staticmethod
        def _Popen(process_obj: Any) -> Any:  # noqa: N802, the name of the base class
            return _Popen(process_obj)

    class _ImportingProcess(_Process):
        imports_main = True

    class _Context(ForkServerContext):
        Process = _Process

    class _ImportingContext(ForkServerContext):
        Process = _ImportingProcess

    @cache
    def _server(_process: int) -> forkserver.ForkServer:
        """The server of a process; a copy of the process needs another one."""
        server = forkserver.ForkServer()
        server.set_forkserver_preload(_PRELOADED)
        return server

    def _ensure_running(server: forkserver.ForkServer) -> None:
        """Start the server, unless it runs, with the signals blocked that readers shall outlive from their birth."""
        resource_tracker.ensure_running()  # which would let the signals through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        try:
            server.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
