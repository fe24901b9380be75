"""Pictures of tasks: asked of Label Studio and of servers that were named, of nobody else; no file is read."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Sequence
from threading import Lock
from typing import Any

import httpx

from vpd.errors import UsageError

_MOST_HOPS, _CONNECT_S = 4, 5.0
_CLOUD = ("s3:", "gs:", "azure-blob:")
_INLINE = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_WITH_TOKEN = re.compile(r"/(data|storage-data|static)/|/(tasks|api/projects)/\d+/(presign|resolve)/")
"""Paths below Label Studio's address at which pictures are; nothing else is shown the token."""
_JWT_PARTS = 3


class Pictures:
    """Fetches what tasks name, within limits.

    Args:
        label_studio: Address of Label Studio, such as `http://localhost:8080`.
        token: Of a user of it; a personal access token or a legacy one. None: pictures that need none.
        servers: Addresses of other servers that have pictures, such as `https://bucket.s3.amazonaws.com`.
        most_bytes: Of a picture's file.
        timeout_s: Seconds for one picture.

    Raises:
        UsageError: If an address is none.
    """

    def __init__(
        self,
        label_studio: str,
        *,
        token: str | None = None,
        servers: Sequence[str] = (),
        most_bytes: int = 25_000_000,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base = _address(label_studio)
        self._allowed = {_server(self._base), *(_server(_address(server)) for server in servers)}
        self._token, self._access = token, ""
        self._most_bytes, self._timeout_s = most_bytes, timeout_s
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
            headers={"accept": "image/*", "accept-encoding": "identity", "user-agent": "vpd"},
            follow_redirects=False,
            transport=transport,
        )
        self._lock = Lock()

    def read(self, address: Any, task: int | None = None) -> bytes:
        """The file of a picture.

        Args:
            address: As the task's data has it: a path of Label Studio's, a full address, `data:image/...` or a place
                in a cloud storage that Label Studio knows.
            task: Number of the task; places in cloud storages need it.

        Raises:
            UsageError: If it may not be fetched, cannot be, or is too large.
        """
        if not isinstance(address, str) or not address.strip():
            raise UsageError(f"The task names no picture, but {str(address)[:60]!r}.")
        address = address.strip()
        if inline := _INLINE.match(address):
            return self._inline(address[inline.end() :])
        try:
            return self._fetch(self._resolve(address, task), time.monotonic() + self._timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UsageError(f"{address[:200]!r} cannot be fetched: {type(error).__name__} {error}") from None

    def _inline(self, packed: str) -> bytes:
        if len(packed) > self._most_bytes * 4 / 3 + 4:
            raise self._too_large()
        try:
            return base64.b64decode(packed, validate=True)
        except (binascii.Error, ValueError):
            raise UsageError("The picture in the task is no base64.") from None

    def _resolve(self, address: str, task: int | None) -> httpx.URL:
        """Where a picture is, as Label Studio's own tools understand its address."""
        base = str(self._base).rstrip("/")
        if address.startswith(_CLOUD):
            if task is None:
                raise UsageError(f"{address[:200]!r} lies in a cloud storage; the task needs an id, to ask for it.")
            place = base64.urlsafe_b64encode(address.encode()).decode()
            return httpx.URL(f"{base}/tasks/{task}/presign/", params={"fileuri": place})
        if address.startswith(("upload/", "/upload/")):
            return httpx.URL(f"{base}/data/{address.lstrip('/')}")
        if address.startswith("/") and not address.startswith("//"):  # uploads have the path of its address already
            return httpx.URL(base + address.removeprefix(self._base.path.rstrip("/")))
        return httpx.URL(address)

    def _fetch(self, url: httpx.URL, until_s: float) -> bytes:
        is_new_access = False
        for _ in range(_MOST_HOPS):
            self._check(url)
            with self._client.stream("GET", url, headers=self._headers(url)) as response:
                if response.status_code == httpx.codes.UNAUTHORIZED and self._access and not is_new_access:
                    self._access, is_new_access = "", True  # it has expired
                    continue
                if response.has_redirect_location:
                    url = url.join(response.headers["location"])
                    continue
                if response.status_code != httpx.codes.OK:
                    raise UsageError(f"{_short(url)} answers {response.status_code}{self._hint(response.status_code)}.")
                return self._body(response, until_s)
        raise UsageError(f"{_short(url)}: sends from one place to the next.")

    def _check(self, url: httpx.URL) -> None:
        """Refuse addresses that nobody named, also those that others send to."""
        if url.scheme not in ("http", "https") or url.userinfo or _server(url) not in self._allowed:
            server = f"{url.scheme}://{url.netloc.decode()}"[:200]
            raise UsageError(
                f"Pictures of {server!r} are not fetched; {_names(self._allowed)} are. If that is where the pictures "
                f"are, start with --pictures-from {server}"
            )

    def _headers(self, url: httpx.URL) -> dict[str, str]:
        """With the token, where it belongs."""
        below = self._base.path.rstrip("/")  # other programs may live beside it on the same server
        is_there = _server(url) == _server(self._base) and url.path.startswith(f"{below}/")
        path = url.path.removeprefix(below)
        # only the path as it is: ".." would lead elsewhere behind Label Studio's proxy
        if self._token is None or not is_there or not _WITH_TOKEN.match(path) or ".." in path:
            return {}
        if self._token.count(".") != _JWT_PARTS - 1:
            return {"authorization": f"Token {self._token}"}
        return {"authorization": f"Bearer {self._bearer()}"}

    def _bearer(self) -> str:
        """What a personal access token is exchanged for; it holds for some minutes."""
        with self._lock:
            if not self._access:
                refresh = f"{str(self._base).rstrip('/')}/api/token/refresh/"
                response = self._client.post(refresh, json={"refresh": self._token})
                try:
                    self._access = str(response.raise_for_status().json()["access"])
                except (httpx.HTTPStatusError, json.JSONDecodeError, KeyError, TypeError):
                    raise UsageError(f"{_short(self._base)} does not accept the token; is it expired?") from None
            return self._access

    def _body(self, response: httpx.Response, until_s: float) -> bytes:
        content = bytearray()
        if int(response.headers.get("content-length", "0")) > self._most_bytes:
            raise self._too_large()
        for chunk in response.iter_raw():  # as it came: what a server packed unpacks to any size
            content += chunk
            if len(content) > self._most_bytes:
                raise self._too_large()
            if time.monotonic() > until_s:
                raise UsageError(f"{_short(response.url)} takes more than {self._timeout_s:g} s.")
        return bytes(content)

    def _too_large(self) -> UsageError:
        return UsageError(f"The picture's file is larger than {self._most_bytes / 1e6:g} MB (--max-upload-mb).")

    def _hint(self, status: int) -> str:
        is_refused = status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
        return " (the user of the token may not see it, or there is no --token-file)" if is_refused else ""


def _address(given: str) -> httpx.URL:
    try:
        url = httpx.URL(given)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise UsageError(f"An address is written as http://localhost:8080 or https://example.org, not {given!r}.")
    return url


def _server(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _names(servers: set[tuple[str, str, int]]) -> str:
    return ", ".join(sorted(f"{scheme}://{host}:{port}" for scheme, host, port in servers))


def _short(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"[:200]
