"""What the page's framework takes in, which knows no limits: how much is uploaded, and which files are named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vpd.serving.engine import BusyError
from vpd.serving.page.scratch import Scratch
from vpd.serving.service import Service

UPLOAD_PATH, _FRAMEWORK = "/gradio_api/upload", "/gradio_api/"
MOST_KEPT_BYTES = 2_000_000_000
"""Of all that the page keeps for a while; what would be more is refused."""
_MOST_AT_ONCE = 10
"""Largest uploads of many pictures, in largest requests."""
_MOST_WORDS_BYTES = 1_000_000


def most_page_bytes(path: str, most_bytes: int) -> int | None:
    """Bytes that a request to a path of the page may have; none = as many as all others, `most_bytes`."""
    if path == UPLOAD_PATH:
        return most_upload_bytes(most_bytes)
    return _MOST_WORDS_BYTES if path.startswith(_FRAMEWORK) else None  # words, and names of uploads


def most_upload_bytes(most_bytes: int) -> int:
    """Bytes of one upload of pictures to the page, where a request may have `most_bytes`."""
    return _MOST_AT_ONCE * most_bytes


class Intake:
    """ASGI middleware around the page.

    An upload holds a place of the service's queue until it is stored, and is refused where too much is kept already;
    the guard, outside, minds its size and its time. What is asked may name uploads alone: the framework would copy any
    other file of this machine to where it is shown, and fetch those of other machines.

    Args:
        app: With the page.
        service: Whose places they take.
        scratch: Where they are stored.
        most_kept_bytes: Of all that is kept there.
    """

    def __init__(
        self, app: ASGIApp, *, service: Service, scratch: Scratch, most_kept_bytes: int = MOST_KEPT_BYTES
    ) -> None:
        self._app, self._service, self._scratch = app, service, scratch
        self._most_kept_bytes, self._coming_bytes = most_kept_bytes, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(_FRAMEWORK):
            await self._app(scope, receive, send)
        elif scope["path"] == UPLOAD_PATH:
            await self._upload(scope, receive, send)
        else:
            await self._question(scope, receive, send)

    async def _question(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        try:
            names_uploads = await run_in_threadpool(self._names_uploads, body)  # it may name very many
        except (ValueError, RecursionError):
            await JSONResponse({"detail": "The body is no JSON."}, 400)(scope, receive, send)
            return
        if not names_uploads:
            await JSONResponse({"detail": "It names a file that was not uploaded."}, 422)(scope, receive, send)
            return
        again: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def read_again() -> Message:
            for message in again:
                return message
            return await receive()

        await self._app(scope, read_again, send)

    def _names_uploads(self, body: bytes) -> bool:
        return all(map(self._scratch.is_here, _named_files(json.loads(body))))

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = Headers(scope=scope).get("content-length")
        most = most_upload_bytes(self._service.settings.most_bytes)
        try:
            with self._service.engine.place():
                async with self._room(int(told) if told else most):  # chunked: as long as it may be
                    await self._app(scope, receive, send)
        except BusyError as error:
            retry = {"Retry-After": str(error.retry_after_s)}
            await JSONResponse({"detail": str(error)}, 503, headers=retry)(scope, receive, send)

    @asynccontextmanager
    async def _room(self, coming_bytes: int) -> AsyncIterator[None]:
        """Room for an upload, kept for it until it is there.

        Raises:
            BusyError: If there is none.
        """
        self._coming_bytes += coming_bytes
        try:
            used = await run_in_threadpool(self._scratch.bytes_used)
            if used + self._coming_bytes > self._most_kept_bytes:
                raise BusyError("Too many uploads are kept at the moment.", retry_after_s=60)
            yield
        finally:
            self._coming_bytes -= coming_bytes


def _named_files(asked: Any) -> Iterator[str]:
    left = [asked]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if isinstance(each.get("path"), str):
                yield each["path"]
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)
