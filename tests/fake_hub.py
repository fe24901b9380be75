"""A hub on this machine, with the part of the Hugging Face hub's interface that its client asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import close_session

SHA = "1" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves `root/owner/name/...`, other revisions from `root/owner/name@revision/...`, and takes uploads.

    `refuse` answers requests for files, or for all where `of_all`; `writer` is the token that may upload.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root = root
        self.gated: bool | str = False
        self.refuse: tuple[int, dict[str, str]] | None = None
        self.of_all = False
        self.writer = "writer"
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
        if self.command != "HEAD":
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

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0], self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {self.server.writer}":
            return self.reply(401, b"{}")
        parts = path.split("/")[3:]
        if path == "/api/repos/create":
            told = json.loads(body)
            repository = f"{told['organization']}/{told['name']}"
            self.folder_of(*repository.split("/")).mkdir(parents=True, exist_ok=True)
            return self.answer({"url": f"{self.server.url}/{repository}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if parts[2] == "branch":
            shutil.copytree(self.folder_of(*parts[:2]), self.folder_of(*parts[:2], parts[3]), dirs_exist_ok=True)
            return self.reply(200)
        if parts[2] == "preupload":  # all inside the commit, none by LFS
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        folder = self.folder_of(*parts[:2], parts[3])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                target = folder / line["value"]["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(line["value"]["content"]))
        url = f"{self.server.url}/{parts[0]}/{parts[1]}/commit/{SHA}"
        return self.answer({"success": True, "commitOid": SHA, "commitUrl": url})

    def answer(self, told: object) -> None:
        self.reply(200, json.dumps(told).encode(), Content_Type="application/json")

    def folder_of(self, owner: str, name: str, revision: str = "main") -> Path:
        return self.server.root / owner / (name if revision in ("main", SHA) else f"{name}@{revision}")

    def list_files(self, parts: list[str]) -> None:
        if not self.folder_of(*parts[:2]).is_dir():
            return self.reply(404, X_Error_Code="RepoNotFound")
        revision = parts[3] if len(parts) > 3 else "main"
        folder = self.folder_of(*parts[:2], _NAMES.get(revision, revision))
        if not folder.is_dir():
            return self.reply(404, X_Error_Code="RevisionNotFound")
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        told: object = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
        if "tree" not in parts:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            told = {"id": "/".join(parts[:2]), "sha": _sha(folder), "gated": self.server.gated, "siblings": siblings}
            told |= {"tags": [], "cardData": {"license": "openrail"}}
        return self.reply(200, json.dumps(told).encode(), Content_Type="application/json")

    def send_file(self, parts: list[str]) -> None:
        if len(parts) < 5:  # it may ask who we are
            return self.reply(404)
        folder = self.folder_of(*parts[:2], _NAMES.get(parts[3], parts[3]))
        path = folder.joinpath(*parts[4:])
        if not path.is_file():
            return self.reply(404, X_Error_Code="EntryNotFound")
        data, status = path.read_bytes(), 200
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": _sha(folder)}
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
            data, status = data[int(first) : end + 1], 206
        return self.reply(status, data, **headers)


_NAMES: dict[str, str] = {}
"""Commit -> the revision that it is."""


def _sha(folder: Path) -> str:
    """Commit of a folder."""
    _, mark, revision = folder.name.partition("@")
    if not mark:
        return SHA
    commit = hashlib.sha1(revision.encode()).hexdigest()
    _NAMES[commit] = revision
    return commit


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
