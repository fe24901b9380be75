"""What the page's framework is given: uploads within limits, and no files but those."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_models import needs, picture_bytes
from vpd.serving.page.scratch import Scratch, scratch_folder
from vpd.serving.served import Served

needs("gradio", "fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx")

from starlette.testclient import TestClient  # noqa: E402
from starlette.types import Message  # noqa: E402

from vpd.serving.guard import Guard  # noqa: E402
from vpd.serving.page.intake import UPLOAD_PATH, Intake, most_page_bytes  # noqa: E402
from vpd.serving.page.page import add_page, is_page_path  # noqa: E402
from vpd.serving.routes import create_app, is_service_path  # noqa: E402
from vpd.serving.service import Service  # noqa: E402
from vpd.serving.settings import ServiceSettings  # noqa: E402

pytestmark = pytest.mark.extras
JOIN, RUN = "/gradio_api/queue/join", "/gradio_api/run/predict"


class Page:
    """Page and service behind the guard, as `vpd app` puts them together."""

    def __init__(self, served: dict[str, Served], scratch: Scratch, timeout_s: float = 60.0) -> None:
        settings = ServiceSettings(max_upload_mb=1.0, queue=2, timeout_s=timeout_s)
        self.scratch, self.service = scratch, Service(list(served.values()), settings)
        self.app = create_app(self.service)
        add_page(self.app, self.service, scratch)
        self.guard = Guard(
            self.app,
            settings,
            is_open=lambda path: is_service_path(path) or is_page_path(path),
            most_bytes_of=lambda path: most_page_bytes(path, settings.most_bytes),
        )
        self.client = TestClient(self.guard, base_url="http://127.0.0.1:7860")

    def upload(self, *contents: bytes) -> Any:
        return self.client.post(UPLOAD_PATH, files=[("files", ("a.png", content)) for content in contents])


@pytest.fixture(scope="module")
def page(served: dict[str, Served]) -> Iterator[Page]:
    with scratch_folder() as scratch:
        yield Page(served, scratch)


def test_the_framework_lets_no_other_origins_in(page: Page) -> None:
    config = page.client.get("/config", headers={"origin": "http://localhost:3000"})
    assert config.status_code == 200 and not [name for name in config.headers if name.startswith("access-control")]


def test_an_upload_waits_for_a_place_like_all_requests(page: Page) -> None:
    with page.service.engine.place(), page.service.engine.place():
        refused = page.upload(picture_bytes())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    stored = page.upload(picture_bytes())
    assert stored.status_code == 200 and Path(stored.json()[0]).read_bytes() == picture_bytes()
    assert page.service.engine.inside == 0


def test_uploads_end_where_too_much_is_kept(page: Page) -> None:
    small = Intake(page.app, service=page.service, scratch=page.scratch, most_kept_bytes=400_000)
    client = TestClient(small, base_url="http://127.0.0.1:7860")
    room = 400_000 - page.scratch.bytes_used()
    assert room > 10_000
    files = {"files": ("a.png", b"x" * (room - 5_000))}
    assert client.post(UPLOAD_PATH, files=files).status_code == 200
    refused = client.post(UPLOAD_PATH, files=files)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "60"
    assert page.scratch.bytes_used() <= 400_000
    chunked = client.post(
        UPLOAD_PATH, content=iter([b"x"]), headers={"content-type": "multipart/form-data; boundary=a"}
    )
    assert chunked.status_code == 503  # it may become as long as any


def send(page: Page, messages: list[Message]) -> list[int]:
    """Statuses that an upload gets of which these messages arrive, and then nothing."""
    statuses: list[int] = []
    left = iter(messages)

    async def receive() -> Message:
        for message in left:
            return message
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "scheme": "http", "path": UPLOAD_PATH, "raw_path": UPLOAD_PATH.encode()}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "server": ("127.0.0.1", 7860)}
    scope["headers"] = [(b"host", b"127.0.0.1:7860"), (b"content-type", b"multipart/form-data; boundary=a")]
    asyncio.run(page.guard(scope, receive, answer))
    return statuses


def test_uploads_that_vanish_or_never_end_raise_nothing_and_hold_no_place(served: dict[str, Served]) -> None:
    head = b'--a\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    begun: Message = {"type": "http.request", "body": head, "more_body": True}
    more: Message = {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}
    with scratch_folder() as scratch:
        page = Page(served, scratch, timeout_s=0.1)
        send(page, [begun, {"type": "http.disconnect"}])
        assert send(page, [begun, *[more] * 11]) == [413]
        assert send(page, [begun]) == [408]
        assert page.service.engine.inside == 0
        assert page.upload(picture_bytes()).status_code == 200


@pytest.mark.parametrize("path", [JOIN, RUN])
def test_what_is_asked_names_uploads_alone(page: Page, tmp_path: Path, path: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture_bytes(seed=7))
    upload = page.upload(picture_bytes()).json()[0]
    before = page.scratch.bytes_used()

    def ask(named: str) -> Any:
        file = {"path": named, "meta": {"_type": "gradio.FileData"}}
        return page.client.post(path, json={"fn_index": 0, "data": [[{"x": file}]], "session_hash": "s"})

    for named in (str(secret), f"{page.scratch.folder}/../{secret}", "secret.png", "http://127.0.0.1:9/a.png", "\0"):
        refused = ask(named)
        assert refused.status_code == 422 and "not uploaded" in refused.json()["detail"], named
    assert page.scratch.bytes_used() == before
    assert ask(upload).status_code not in (400, 422)  # it comes to the framework
    for odd in (b"", b"[" * 100_000, b'{"path": "\\ud800"}', b"\xff"):
        assert page.client.post(path, content=odd).status_code == 400
    assert page.client.post(path, content=json.dumps({"data": ["x" * 1_100_000]})).status_code == 413
