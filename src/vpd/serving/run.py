"""The process of `vpd app`: listens, and when told to stop finishes what it took."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from vpd.errors import UsageError
from vpd.serving.guard import Guard
from vpd.serving.service import Service
from vpd.serving.settings import ServiceSettings, check_reach

_KEEP_ALIVE_S, _MOST_CONNECTIONS = 30, 1000
_LONGEST_STOP_S = 15
"""Beyond a request's own time-outs, to arrive and to be answered, until open connections are closed."""


class _Server(uvicorn.Server):
    """Tells service and guard first when it stops."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def listen(settings: ServiceSettings) -> socket.socket:
    """A socket at the address; its port is known before the service says that it is ready.

    Raises:
        UsageError: If other machines would be let in without a token, or the address cannot be had.
    """
    check_reach(settings)
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, settings.port))
        listening.listen()  # whoever asks from now on waits; and nobody else can have the port
    except OSError as error:
        listening.close()
        raise UsageError(
            f"Cannot listen at {settings.host}:{settings.port} ({error.strerror or error}). Give another --port; 0 = "
            "any that is free."
        ) from error
    return listening


def address(settings: ServiceSettings, listening: socket.socket) -> str:
    """Where a browser finds it."""
    host = f"[{settings.host}]" if ":" in settings.host and "[" not in settings.host else settings.host
    return f"http://{host}:{listening.getsockname()[1]}"


def serve(app: ASGIApp, service: Service, settings: ServiceSettings, listening: socket.socket, **guarding: Any) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish what was accepted.

    Args:
        app: Service, with the page or without.
        service: What answers.
        settings: Limits.
        listening: From `listen`.
        guarding: Further arguments of `Guard`.
    """
    guard = Guard(app, settings, is_idle=lambda: service.engine.is_idle, **guarding)

    def stop() -> None:
        service.engine.stop()
        guard.stop()

    config = uvicorn.Config(
        guard,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=2 * math.ceil(settings.timeout_s) + _LONGEST_STOP_S,
        limit_concurrency=_MOST_CONNECTIONS,
        lifespan="on",
        ws="none",
    )
    _Server(config, stop).run(sockets=[listening])
