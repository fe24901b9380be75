"""Who is let in, what is refused and how: around an application that tells what came through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from serving_models import needs

needs("starlette", "httpx")

from starlette.applications import Starlette  # noqa: E402
from starlette.requests import ClientDisconnect, Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from starlette.types import Message  # noqa: E402

from vpd.serving.guard import Guard  # noqa: E402
from vpd.serving.settings import ServiceSettings  # noqa: E402

pytestmark = pytest.mark.extras
FRIEND, EVIL, TOKEN = "https://friend.example", "https://evil.example", "open sesame"


async def told(request: Request) -> Response:
    """What came through; with the headers that the page's framework gives to whoever asks."""
    body = await request.body()
    lax = {"access-control-allow-origin": request.headers.get("origin", ""), "access-control-allow-credentials": "true"}
    return JSONResponse({"query": dict(request.query_params), "bytes": len(body)}, headers=lax)


def guard(**settings: Any) -> Guard:
    app = Starlette(routes=[Route("/{path:path}", told, methods=["GET", "POST", "OPTIONS"])])
    return Guard(app, ServiceSettings(**{"max_upload_mb": 1.0, **settings}))


def client(base_url: str = "http://127.0.0.1:7860", **settings: Any) -> TestClient:
    """What the guard raises, a test does too."""
    return TestClient(guard(**settings), base_url=base_url, follow_redirects=False)


def with_token(base_url: str = "http://box.lan:7860", **settings: Any) -> TestClient:
    return client(base_url, host="0.0.0.0", token=TOKEN, **settings)


def allowed(answer: Any) -> dict[str, str]:
    """What an answer lets scripts of other origins do."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-allow-")}


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def test_nobody_elses_scripts_may_read_or_ask_whatever_the_application_says() -> None:
    own = {"authorization": f"Bearer {TOKEN}"}
    assert allowed(client().get("/config", headers={"origin": "http://localhost:3000"})) == {}
    assert allowed(with_token().get("/config", headers={"origin": EVIL, **own})) == {}
    for asked in (client(), with_token(), with_token(origins=(FRIEND,))):
        preflight = asked.options("/config", headers={"origin": EVIL, **PREFLIGHT})
        assert preflight.status_code == 400 and "access-control-allow-origin" not in preflight.headers
    asked = with_token(origins=(FRIEND,))
    assert allowed(asked.get("/config", headers={"origin": EVIL, **own})) == {}
    assert allowed(asked.get("/config", headers={"origin": FRIEND, **own})) == {"access-control-allow-origin": FRIEND}


def test_named_origins_can_read_refusals_and_ask_beforehand() -> None:
    asked = with_token(origins=(FRIEND,))
    preflight = asked.options("/v1/depth", headers={"origin": FRIEND, **PREFLIGHT})
    assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == FRIEND
    refused = asked.post("/v1/depth", headers={"origin": FRIEND})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == FRIEND
    long = client(origins=(FRIEND,)).post("/v1/depth", content=b"x" * 1_200_000, headers={"origin": FRIEND})
    assert long.status_code == 413 and long.headers["access-control-allow-origin"] == FRIEND
    assert asked.options("/v1/depth").status_code == 401  # nobody's scripts: asked for the token as all others are


@pytest.mark.parametrize("host", ["[", "[::1", "a]b"])
def test_a_host_that_is_none_is_told_so(host: str) -> None:
    for asked in (client(), with_token()):
        answer = asked.get("/healthz", headers={"host": host})
        assert answer.status_code == 400 and "Host" in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["http://[", "http://a]b", "null", "["])
def test_an_origin_that_is_none_is_foreign(origin: str) -> None:
    assert client().post("/v1/depth", headers={"origin": origin}).status_code == 403
    assert client().post("/v1/depth", headers={"origin": origin, "host": ""}).status_code == 403


def test_a_length_beyond_all_numbers_is_too_long() -> None:
    for length in ("9" * 5000, "1e3", "-1"):
        assert client().post("/v1/depth", headers={"content-length": length}).status_code == 413


@pytest.mark.parametrize(
    "other", ['prefs={"a": 1}', "theme=dark mode", "a[b]=1", "name=Zo\u00eb", "odd", 'q="', "=;=="]
)
def test_cookies_of_other_programs_lock_nobody_out(other: str) -> None:
    asked = with_token()
    kept = asked.get(f"/?token={TOKEN}").headers["set-cookie"].partition(";")[0]
    asked.cookies.clear()
    for cookies in (f"{other}; {kept}", f"{kept}; {other}"):
        assert asked.get("/", headers={"cookie": cookies.encode("latin-1")}).status_code == 200


def test_two_services_of_one_host_keep_their_tokens_apart() -> None:
    one = with_token("http://box.lan:7860").get(f"/?token={TOKEN}")
    asked = client("http://box.lan:7861", host="0.0.0.0", token="another word")
    other = asked.get("/?token=another%20word")
    names = {answer.headers["set-cookie"].partition("=")[0] for answer in (one, other)}
    assert len(names) == 2
    both = "; ".join(answer.headers["set-cookie"].partition(";")[0] for answer in (one, other))
    asked.cookies.clear()
    assert asked.get("/", headers={"cookie": both}).status_code == 200
    assert with_token("http://box.lan:7860").get("/", headers={"cookie": both}).status_code == 200


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/v1/%0d%0aX-Evil:1?token=T", b"/v1/%0D%0AX-Evil:1"),
        ("/v1/caf%C3%A9?token=T&a=b", b"/v1/caf%C3%A9?a=b"),
        ("/v1/a%23b%3Fc%25?a=%0d%0a&token=T", b"/v1/a%23b%3Fc%25?a=%0D%0A"),
        ("/gradio_api/file=/tmp/a%20b.png?token=T", b"/gradio_api/file=/tmp/a%20b.png"),
        ("//evil.example/?token=T", b"/evil.example/"),
        ("/%5Cevil.example?token=T", b"/%5Cevil.example"),
    ],
)
def test_a_token_in_the_address_leads_to_the_same_address_without_it(path: str, to: bytes) -> None:
    answer = with_token().get("http://box.lan:7860" + path.replace("token=T", "token=open%20sesame"))
    assert answer.status_code == 303
    assert [value for name, value in answer.headers.raw if name.lower() == b"location"] == [to]


def test_a_token_in_the_address_is_no_word_of_the_request() -> None:
    answer = with_token().post("/v1/depth?scene=hall&token=open%20sesame")
    assert answer.json() == {"query": {"scene": "hall"}, "bytes": 0}


def run(app: Guard, messages: Iterator[Message], path: str = "/v1/depth", **headers: str) -> list[Message]:
    """What is sent to a client who sends these messages and then nothing."""
    sent: list[Message] = []

    async def receive() -> Message:
        for message in messages:
            return message
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "server": ("127.0.0.1", 7860)}
    head = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in head.items()]
    asyncio.run(app(scope, receive, send))
    return sent


PIECE: Message = {"type": "http.request", "body": b"x" * 1000, "more_body": True}
GONE: Message = {"type": "http.disconnect"}


def test_a_client_who_vanishes_or_sends_too_much_raises_nothing() -> None:
    with pytest.raises(ClientDisconnect):  # what would be raised
        run(guard()._app, iter([PIECE, GONE]))  # type: ignore[arg-type]
    run(guard(), iter([PIECE, GONE]))
    sent = run(guard(), iter([PIECE] * 2000))
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [413]


def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    sent = run(guard(timeout_s=0.1), iter([PIECE]))
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [408]
    assert b"0.1 s" in sent[-1]["body"]
