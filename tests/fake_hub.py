"""A hub on this machine, with the part of the Hugging Face hub's interface that its client asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import close_session

SHA = "1" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves `root/owner/name/...`; `refuse` answers requests for files, or for all where `of_all`."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root = root
        self.gated: bool | str = False
        self.refuse: tuple[int, dict[str, str]] | None = None
        self.of_all = False
        self.asked: list[str] = []
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_arguments: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        is_listing = path.startswith("/api/models/")
        if self.server.refuse and (self.server.of_all or not is_listing):
            status, headers = self.server.refuse
            self.reply(status, headers.get("body", "").encode(), **{k: v for k, v in headers.items() if k != "body"})
        elif is_listing:
            self.list_files(path.split("/")[3:])
        else:
            self.send_file(path.split("/")[1:])

    def list_files(self, parts: list[str]) -> None:
        folder = self.server.root / parts[0] / parts[1]
        if not folder.is_dir():
            return self.reply(404, X_Error_Code="RepoNotFound")
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        told: object = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
        if "tree" not in parts:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            told = {"id": "/".join(parts[:2]), "sha": SHA, "gated": self.server.gated, "siblings": siblings}
            told |= {"tags": [], "cardData": {"license": "openrail"}}
        return self.reply(200, json.dumps(told).encode(), Content_Type="application/json")

    def send_file(self, parts: list[str]) -> None:
        path = self.server.root.joinpath(*parts[:2], *parts[4:])
        if not path.is_file():
            return self.reply(404, X_Error_Code="EntryNotFound")
        data, status = path.read_bytes(), 200
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA}
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
            data, status = data[int(first) : end + 1], 206
        return self.reply(status, data, **headers)


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does for a process that begins."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub of `folder/hub` for all that is asked meanwhile, with an empty cache, no token and no proxy."""
    close_session()  # forget connections and proxies of before
    server = FakeHub(folder / "hub")
    for variable in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    point_to(monkeypatch, server.url)
    yield server
    server.shutdown()
    server.server_close()
    close_session()
