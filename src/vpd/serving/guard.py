"""Who may call, and how much: looked at before a request reaches the service or the page."""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vpd.serving.settings import ServiceSettings, is_loopback

COOKIE = "vpd_token"
TOKEN_FIELD = "token"  # noqa: S105, the name of the field
_OPEN_PATHS = ("/healthz",)
_GRACE_S = 0.5
_MOST_DIGITS = 18
_PATH_LETTERS = "/:@!$&'()*+,;=-._~"
_GONE: Message = {"type": "http.disconnect"}
# what a page may load: from here alone; its framework compiles templates in the browser
_CONTENT_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware around service and page.

    Lets nobody in without the token, where there is one; without, no page that came to this address by a name of its
    own; no scripts of other origins than those named, to whom its refusals can be read too. Bodies end at their limit,
    of bytes and of time. Streams to browsers, which never end by themselves, end when the service stops and is idle.

    Args:
        app: Service and page.
        settings: Who is let in, and how large requests may be.
        is_idle: Whether all that was accepted is finished.
        most_bytes_of: Bytes that a request to a path may have; none = those of the settings.
        is_open: Whether a path is one of those that the page or the service has.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        *,
        is_idle: Callable[[], bool] = lambda: True,
        most_bytes_of: Callable[[str], int | None] = lambda path: None,
        is_open: Callable[[str], bool] = lambda path: True,
    ) -> None:
        self._app, self._settings = app, settings
        self._is_idle, self._most_bytes_of, self._is_open = is_idle, most_bytes_of, is_open
        self._is_stopping = asyncio.Event()
        self._with_cors = CORSMiddleware(  # around all of it: what it allows is all that is allowed
            self._guarded,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("authorization", "content-type"),
        )

    def stop(self) -> None:
        """End streams once all is finished."""
        self._is_stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # nothing here speaks over web sockets
            await self._with_cors(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), str(scope["path"])
        refusal = self._refusal(scope, headers, path)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if self._settings.token is not None and path not in _OPEN_PATHS:
            cookie = _cookie_of(headers)
            shown, query = _token_of(scope, headers, cookie)
            if not hmac.compare_digest(shown.encode(), self._settings.token.encode()):
                remedy = "send the header Authorization: Bearer TOKEN, or open the page as /?token=TOKEN"
                extra = {"www-authenticate": "Bearer"}
                await _answer(send, 401, f"This service is for those who show its token: {remedy}.", extra)
                return
            if query is not None and scope["method"] == "GET":  # so that it stands neither in the bar nor in logs
                is_secure = scope["scheme"] == "https"
                redirect = _redirect(path, query, cookie=cookie, token=shown, is_secure=is_secure)
                await redirect(scope, receive, send)
                return
            if query is not None:  # it is no word of the request
                scope = {**scope, "query_string": query.encode()}
        await self._pass(scope, receive, send, headers, path)

    def _refusal(self, scope: Scope, headers: Headers, path: str) -> tuple[int, str] | None:
        settings = self._settings
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            return 400, "The header Host is none."
        if settings.token is None and is_loopback(settings.host) and host and not is_loopback(host):
            return 421, f"This service is for this machine alone and does not answer to the name {host[:100]!r}."
        origin = headers.get("origin")
        is_foreign = origin and origin not in settings.origins and not _is_at(origin, headers.get("host"))
        if is_foreign and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return 403, f"Scripts of {str(origin)[:100]} may not call; --origin lets them."
        if not self._is_open(path):
            return 404, "There is no such page."
        most = self._most(path)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > _MOST_DIGITS or int(length) > most:
            return 413, _too_long(most)
        return None

    def _most(self, path: str) -> int:
        own = self._most_bytes_of(path)
        return self._settings.most_bytes + 64 * 1024 if own is None else own  # a form is larger than its file

    async def _pass(self, scope: Scope, receive: Receive, send: Send, headers: Headers, path: str) -> None:
        """Hand the request on with its body limited, and the answer back with what browsers are to heed."""
        most, seen = self._most(path), 0
        timeout_s = self._settings.timeout_s * max(1.0, most / self._most(""))  # what may be larger may take longer
        late_s = asyncio.get_running_loop().time() + timeout_s + _GRACE_S  # who keeps the time too says it first
        is_started = is_whole = False
        refusal: tuple[int, str] | None = None

        async def limited() -> Message:
            nonlocal seen, is_whole, refusal
            if refusal is not None:
                return _GONE
            try:
                async with asyncio.timeout_at(None if is_whole else late_s):
                    message = await receive()
            except TimeoutError:
                refusal = 408, f"The request took more than {timeout_s:g} s to arrive."
                return _GONE
            seen += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if seen > most:  # chunked, so that its length was not said
                refusal = 413, _too_long(most)
                return _GONE
            return message

        async def with_headers(message: Message) -> None:
            nonlocal is_started
            if refusal is not None and not is_started:
                return  # whatever is said of a body that ends too early
            if message["type"] == "http.response.start":
                is_started = True
                answer = MutableHeaders(scope=message)
                for name in {name for name in answer if name.startswith("access-control-")}:
                    del answer[name]  # the page's framework would let others in
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
                if answer.get("content-type", "").startswith("text/html"):
                    answer["content-security-policy"] = _CONTENT_POLICY
            await send(message)

        try:
            if scope["method"] == "GET" and "text/event-stream" in headers.get("accept", ""):
                await self._until_stopped(self._app(scope, receive, with_headers))
            else:
                with suppress(ClientDisconnect):  # nobody is there, or what `limited` found is said instead
                    await self._app(scope, limited, with_headers)
        finally:
            if refusal is not None and not is_started:
                await _answer(send, *refusal, {"connection": "close"})

    async def _until_stopped(self, stream: Awaitable[None]) -> None:
        running = asyncio.ensure_future(stream)
        stopping = asyncio.ensure_future(self._stopped_and_idle())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_done = running.done()
            for task in (running, stopping):
                task.cancel()
        if is_done:
            await running

    async def _stopped_and_idle(self) -> None:
        await self._is_stopping.wait()
        while not self._is_idle():
            await asyncio.sleep(0.1)
        await asyncio.sleep(_GRACE_S)  # for the last results to be sent


def _is_at(origin: str, host: str | None) -> bool:
    try:
        return bool(host) and urlsplit(origin).netloc == host
    except ValueError:
        return False


def _cookie_of(headers: Headers) -> str:
    """Name of the cookie for the token: browsers send a cookie to all ports of a host, where others may listen."""
    port = headers["host"].rpartition(":")[2] if "host" in headers else ""
    return f"{COOKIE}_{port}" if port.isdecimal() else COOKIE


def _token_of(scope: Scope, headers: Headers, cookie: str) -> tuple[str, str | None]:
    """The token that is shown; and the rest of the query, where it was shown there."""
    kind, _, word = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return word.strip(), None
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if given := [value for name, value in pairs if name == TOKEN_FIELD]:
        return given[0], urlencode([(name, value) for name, value in pairs if name != TOKEN_FIELD])
    if kept := cookie_parser(headers.get("cookie", "")).get(cookie):  # which minds no cookie of other programs
        return kept, None
    if kind.lower() == "basic":  # last, as it may be what a proxy before this asks for
        with suppress(ValueError):
            return b64decode(word.strip(), validate=True).decode().partition(":")[2], None
    return "", None


def _too_long(most_bytes: int) -> str:
    return f"The request is larger than {most_bytes // 100_000 / 10:g} MB, the limit (--max-upload-mb)."


async def _answer(send: Send, status: int, message: str, extra: dict[str, str] | None = None) -> None:
    body = json.dumps({"detail": message}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **_HEADERS, **(extra or {})}
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _redirect(path: str, query: str, *, cookie: str, token: str, is_secure: bool) -> Response:
    """Keep the token in a cookie that scripts cannot read and other sites' pages do not send."""
    to = "/" + quote(path.lstrip("/"), safe=_PATH_LETTERS)  # never to another host; one line, whatever was written
    response = RedirectResponse(f"{to}?{query}" if query else to, 303, headers={"cache-control": "no-store"})
    response.set_cookie(cookie, token, httponly=True, samesite="strict", secure=is_secure)
    return response
