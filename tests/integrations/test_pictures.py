"""Which pictures the backend for Label Studio fetches, with what, and which it never will."""

from __future__ import annotations

import base64
import gzip
import time
from typing import Any

import pytest
from label_studio_side import BASE, LEGACY, PERSONAL, Studio, httpx

from integrations.label_studio.pictures import Pictures
from vpd.errors import UsageError

PICTURE = b"\x89PNG of a street"


def refusal(pictures: Pictures, address: Any, task: int | None = 7) -> str:
    with pytest.raises(UsageError) as error:
        pictures.read(address, task)
    return str(error.value)


def of(studio: Studio, base: str = BASE, **options: Any) -> Pictures:
    return Pictures(base, transport=studio.transport, **{"token": LEGACY, **options})


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("/data/upload/3/1a2b3c4d-a.jpg", "/data/upload/3/1a2b3c4d-a.jpg"),
        ("upload/3/a.jpg", "/data/upload/3/a.jpg"),
        ("/data/local-files/?d=streets/a%20b.jpg", "/data/local-files/?d=streets/a%20b.jpg"),
        (f"{BASE}/storage-data/uploaded/?filepath=upload/3/a.jpg", "/storage-data/uploaded/?filepath=upload/3/a.jpg"),
        ("s3://bucket/a b.jpg", "/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYSBiLmpwZw%3D%3D"),
    ],
)
def test_label_studios_own_pictures_come_with_the_token(address: str, asked: str) -> None:
    studio = Studio({asked: PICTURE})
    assert of(studio).read(address, 7) == PICTURE
    assert studio.asked == [(BASE + asked, f"Token {LEGACY}")]


def test_it_may_live_below_a_path() -> None:
    studio = Studio({"/studio/data/upload/3/a.jpg": PICTURE, "/data/upload/3/a.jpg": PICTURE})
    studio.is_token_wanted = lambda path: path.startswith("/studio/")
    pictures = of(studio, f"{BASE}/studio/")
    for address in ("/data/upload/3/a.jpg", "/studio/data/upload/3/a.jpg", f"{BASE}/studio/data/upload/3/a.jpg"):
        assert pictures.read(address) == PICTURE
    assert studio.asked == [(f"{BASE}/studio/data/upload/3/a.jpg", f"Token {LEGACY}")] * 3
    assert pictures.read(f"{BASE}/data/upload/3/a.jpg") == PICTURE
    assert studio.asked[-1] == (f"{BASE}/data/upload/3/a.jpg", ""), "another program lives there"


def test_personal_tokens_are_exchanged_and_renewed() -> None:
    studio = Studio({"/data/a.jpg": PICTURE})
    pictures = of(studio, token=PERSONAL)
    assert pictures.read("/data/a.jpg") == pictures.read("/data/a.jpg") == PICTURE
    assert studio.exchanged == 1 and studio.asked[-1][1] == "Bearer access1"
    studio.exchanged = 5  # what it gave out before is no longer valid
    assert pictures.read("/data/a.jpg") == PICTURE and studio.exchanged == 6
    studio.is_token_wanted = lambda path: True
    studio.answers.clear()
    studio.exchanged = -1
    assert "answers 401" in refusal(pictures, "/data/a.jpg")


def test_pictures_inside_a_task() -> None:
    studio = Studio({})
    packed = base64.b64encode(PICTURE).decode()
    assert of(studio).read(f"data:image/png;base64,{packed}") == PICTURE and not studio.asked
    assert "larger than 1e-05 MB" in refusal(of(studio, most_bytes=10), f"data:image/png;base64,{packed}")
    assert "no base64" in refusal(of(studio), "data:image/png;base64,?!")


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:8080/data/a.jpg",
        "https://studio.test:8080/data/a.jpg",
        "http://studio.test/data/a.jpg",
        "http://studio.test.evil.example:8080/data/a.jpg",
        "http://studio.test:8080@evil.example/data/a.jpg",
        "http://user@studio.test:8080/data/a.jpg",
        "//evil.example/a.jpg",
        "file:///etc/passwd",
        "/etc/passwd/../../data/a.jpg@evil",
        "ftp://studio.test:8080/a.jpg",
        "gopher://studio.test:8080/_",
        "etc/passwd",
        "data:text/html;base64,aGVsbG8=",
        "http://[::1",
        "",
        None,
        ["/data/a.jpg"],
    ],
)
def test_nobody_else_is_asked_and_no_file_is_read(address: Any) -> None:
    studio = Studio({"/data/a.jpg": PICTURE, "/a.jpg": PICTURE})
    assert refusal(of(studio), address)
    assert not [url for url, _ in studio.asked if not url.startswith(f"{BASE}/")]


def test_named_servers_are_asked_without_the_token() -> None:
    studio = Studio({"/a.jpg": PICTURE, "/tasks/7/presign/": "https://bucket.test/a.jpg?signed=1"})
    pictures = of(studio, servers=["https://bucket.test"])
    assert pictures.read("https://bucket.test/a.jpg") == PICTURE == pictures.read("s3://bucket/a.jpg", 7)
    assert [shown for url, shown in studio.asked if "bucket.test" in url.partition("?")[0]] == ["", ""]
    assert "--pictures-from https://bucket.test" in refusal(of(studio), "s3://bucket/a.jpg")
    assert "needs an id" in refusal(of(studio), "s3://bucket/a.jpg", None)


def test_the_token_is_shown_at_pictures_alone() -> None:
    studio = Studio({"/api/users/": PICTURE, "/static/a.jpg": PICTURE})
    pictures = of(studio)
    pictures.read("/api/users/")
    pictures.read("/static/a.jpg")
    refusal(pictures, f"{BASE}/data/%2e%2e/api/users/")
    assert [shown for _, shown in studio.asked[:2]] == ["", f"Token {LEGACY}"]
    assert all("api/users" not in url or not shown for url, shown in studio.asked)


def test_it_follows_to_allowed_places_and_not_for_ever() -> None:
    studio = Studio({"/data/a.jpg": "/data/b.jpg", "/data/b.jpg": PICTURE, "/data/c.jpg": "http://10.0.0.1/x"})
    assert of(studio).read("/data/a.jpg") == PICTURE
    assert "http://10.0.0.1" in refusal(of(studio), "/data/c.jpg")
    assert all("10.0.0.1" not in url for url, _ in studio.asked)
    studio.answers["/data/d.jpg"] = "/data/d.jpg"
    assert "from one place to the next" in refusal(of(studio), "/data/d.jpg")


def test_files_are_read_to_their_limit() -> None:
    studio = Studio({"/data/a.jpg": b"x" * 2000})
    assert "larger than 0.001 MB" in refusal(of(studio, most_bytes=1000), "/data/a.jpg")
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 100

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=endless()))
    assert "larger than" in refusal(Pictures(BASE, most_bytes=1000, transport=transport), "/data/a.jpg")
    assert sent < 20, "stopped at the limit, though no length was told"

    packed = gzip.compress(b"x" * 1_000_000)
    answer = {"headers": {"content-encoding": "gzip"}, "stream": httpx.ByteStream(packed)}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, **answer))
    assert Pictures(BASE, most_bytes=2000, transport=transport).read("/data/a.jpg") == packed, "not unpacked"

    def slow() -> Any:
        while True:
            time.sleep(0.02)
            yield b"x"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=slow()))
    assert "more than 0.1 s" in refusal(Pictures(BASE, timeout_s=0.1, transport=transport), "/data/a.jpg")


def test_what_goes_wrong_is_told() -> None:
    assert "answers 404" in refusal(of(Studio({})), "/data/gone.jpg")
    assert "--token-file" in refusal(of(Studio({"/data/a.jpg": PICTURE}), token=None), "/data/a.jpg")

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    assert "ConnectError" in refusal(Pictures(BASE, transport=httpx.MockTransport(fail)), "/data/a.jpg")
    for wrong in ("studio.test", "ftp://studio.test", "http://", "http://me:word@studio.test"):
        with pytest.raises(UsageError, match="An address is written as"):
            Pictures(wrong)
    expired = httpx.MockTransport(lambda request: httpx.Response(401, json={}))
    assert "does not accept the token" in refusal(Pictures(BASE, token=PERSONAL, transport=expired), "/data/a.jpg")
