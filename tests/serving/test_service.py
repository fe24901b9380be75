"""The HTTP service: answers in every form, refusals that say why, and nothing that a bad upload could break."""

from __future__ import annotations

import io
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import vpd
from serving_models import malformed, needs, picture_bytes
from vpd.errors import UsageError
from vpd.files.images import DEPTH_SCALE_KEY
from vpd.serving.answers import overlay_file
from vpd.serving.served import Asked, Served

needs("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx", "uvicorn")

from starlette.testclient import TestClient  # noqa: E402

from vpd.serving.guard import Guard  # noqa: E402
from vpd.serving.page.results import Results  # noqa: E402
from vpd.serving.routes import create_app, is_service_path  # noqa: E402
from vpd.serving.run import listen, serve  # noqa: E402
from vpd.serving.service import Service  # noqa: E402
from vpd.serving.settings import ServiceSettings  # noqa: E402

pytestmark = pytest.mark.extras
TASKS = ("segment", "refer", "depth")
WORDS: dict[str, dict[str, str]] = {"segment": {}, "refer": {"text": "the red cube"}, "depth": {}}


def guarded(served: dict[str, Served], base_url: str = "http://127.0.0.1", **settings: Any) -> TestClient:
    """A client of a service with these settings."""
    own = ServiceSettings(**{"max_upload_mb": 1.0, **settings})
    service = Service(list(served.values()), own)
    app = Guard(create_app(service), own, is_open=is_service_path)
    client = TestClient(app, base_url=base_url, raise_server_exceptions=False)
    client.service = service  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="module")
def client(served: dict[str, Served]) -> Iterator[TestClient]:
    with guarded(served) as client:
        yield client


def ask(client: TestClient, task: str, content: bytes | None = None, **words: str) -> Any:
    files = {"image": ("x.png", picture_bytes() if content is None else content)}
    return client.post(f"/v1/{task}", files=files, data={**WORDS[task], **words})


def test_segmentation_answers_as_predict_does(client: TestClient, served: dict[str, Served]) -> None:
    image = Image.open(io.BytesIO(picture_bytes()))
    expected = served["segment"].model.predict(image).labels.numpy()
    answer = ask(client, "segment").json()
    assert (answer["model"], answer["height"], answer["width"]) == ("tiny-segment", 64, 80)
    labels = np.full((64, 80), 255)
    for found in answer["classes"]:
        inside = coco_mask.decode({"size": found["rle"]["size"], "counts": found["rle"]["counts"].encode()}) > 0
        labels[inside] = found["label"]
        assert found["share"] == pytest.approx(inside.mean(), abs=1e-5)
    np.testing.assert_array_equal(labels, expected)
    png = Image.open(io.BytesIO(ask(client, "segment", format="png").content))
    np.testing.assert_array_equal(np.asarray(png), expected)
    assert "sky" in png.info["classes"]
    np.testing.assert_array_equal(np.load(io.BytesIO(ask(client, "segment", format="npy").content)), expected)
    assert Image.open(io.BytesIO(ask(client, "segment", format="overlay").content)).format == "JPEG"


def test_segmentation_takes_other_classes(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    found = ask(client, "segment", classes="zebra, giraffe").json()["classes"]
    assert {each["name"] for each in found} <= {"zebra", "giraffe"} and found
    assert ask(client, "segment", classes="a,a").status_code == 422
    assert [record for record in caplog.records if record.name.startswith("vpd")] == []


def test_words_that_fit_none_leave_each_picture_its_own_error(served: dict[str, Served]) -> None:
    asked = [Asked(content, {}) for content in (b"no picture", picture_bytes())]
    broken, good = served["segment"].answer_all(asked, words={"classes": ["a", "a"]}, size=None)
    assert isinstance(broken, UsageError) and "the picture" in str(broken)
    assert isinstance(good, UsageError) and "twice" in str(good)


@pytest.mark.parametrize("part", ["predict", "word_maps"])
def test_an_accident_is_of_its_own_picture(
    served: dict[str, Served], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    model, real_predict, real_maps = served["refer"].model, served["refer"].model.predict, Served._word_maps

    def predict(images: Any, **words: Any) -> Any:
        if part == "predict" and "bad" in words["text"]:
            raise KeyError("inner workings")
        return real_predict(images, **words)

    def word_maps(self: Served, image: Any, asked: Asked, fit: Any) -> Any:
        if part == "word_maps" and asked.words["text"] == "bad":
            raise KeyError("inner workings")
        return real_maps(self, image, asked, fit)

    monkeypatch.setattr(model, "predict", predict)
    monkeypatch.setattr(Served, "_word_maps", word_maps)
    asked = [Asked(picture_bytes(), {"text": text}, is_attention_wanted=True) for text in ("good", "bad", "fine")]
    good, bad, fine = served["refer"].answer_all(asked, words={}, size=None)
    assert isinstance(bad, KeyError) and good.prediction.text == "good" and fine.prediction.text == "fine"
    assert [word.word for word in good.words] == ["good"]


def test_no_text_encoder_is_fetched_for_a_caller(
    served: dict[str, Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> Any:
        raise AssertionError("A text encoder was asked for.")

    served["segment"].model.save(tmp_path / "model")
    model = vpd.load(tmp_path / "model", device="cpu")
    model.text_encoder = None
    monkeypatch.setattr("vpd.tasks.classes.TextEncoder.from_pretrained", fetch)
    with guarded({"segment": Served("bare", model, max_px=250_000)}) as client:
        refused = ask(client, "segment", classes="zebra")
        assert refused.status_code == 422 and "saved without text encoder" in refused.json()["detail"]
        assert "vpd_group_pictures_count 0.0" in client.get("/metrics").text  # it was never queued
        assert ask(client, "segment", classes="road, sky").status_code == 200  # it has their prompts


def test_an_accident_is_not_taken_for_a_wrong_name(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def accident(*_: Any, **__: Any) -> Any:
        raise KeyError("inner workings")

    monkeypatch.setattr(client.service, "ask", accident)  # type: ignore[attr-defined]
    answer = ask(client, "depth")
    assert answer.status_code == 500 and "inner" not in answer.text


def test_answers_are_let_go_of_when_their_time_is_over(served: dict[str, Served]) -> None:
    results = Results()
    (answered,) = served["refer"].answer_all([Asked(picture_bytes(), {"text": "a"})], words={}, size=None)
    name, seen = results.add(answered, "tiny"), weakref.ref(answered)
    del answered
    assert results.get(name).size_bytes == 80 * 64 * (3 + 4 + 1)  # picture, probability, mask
    results.sweep(time.monotonic() + 800)
    assert seen() is not None
    results.sweep(time.monotonic() + 1000)
    assert seen() is None
    with pytest.raises(LookupError, match="run the picture again"):
        results.get(name)


def test_referring_answers_with_mask_box_and_probabilities(client: TestClient) -> None:
    answer = ask(client, "refer", threshold="0.01").json()
    probability = np.load(io.BytesIO(ask(client, "refer", format="npy").content))
    mask = coco_mask.decode({"size": answer["rle"]["size"], "counts": answer["rle"]["counts"].encode()})
    np.testing.assert_array_equal(mask > 0, probability > 0.01)
    left, top, right, bottom = answer["box"]
    assert mask[top:bottom, left:right].sum() == mask.sum() > 0
    assert answer["text"] == "the red cube" and 0 <= answer["presence"] <= 1


def test_depth_answers_in_metres_and_as_points(client: TestClient) -> None:
    answer = ask(client, "depth", scene="hall").json()
    metres = np.load(io.BytesIO(ask(client, "depth", scene="hall", format="npy").content))
    assert answer["scene"] == "hall" and answer["nearest_m"] == pytest.approx(float(metres.min()), abs=1e-3)
    png = Image.open(io.BytesIO(ask(client, "depth", scene="hall", format="png").content))
    np.testing.assert_allclose(np.asarray(png) * float(png.info[DEPTH_SCALE_KEY]), metres, atol=6e-4)
    points = ask(client, "depth", format="ply", fov_deg="65").content
    assert points.startswith(b"ply\n") and b"element vertex 5120\n" in points
    refused = ask(client, "depth", format="ply")
    assert refused.status_code == 422 and "fov_deg" in refused.json()["detail"]


def test_depth_comes_in_the_colours_that_were_asked_for(client: TestClient, served: dict[str, Served]) -> None:
    metres = np.load(io.BytesIO(ask(client, "depth", format="npy").content))
    middle = f"{np.median(metres):.5f}"
    shown = served["depth"].model.predict(Image.open(io.BytesIO(picture_bytes())), near_m=float(middle))
    overlay = ask(client, "depth", format="overlay", near_m=middle).content
    assert overlay == overlay_file(shown) != ask(client, "depth", format="overlay").content
    points = ask(client, "depth", format="ply", fov_deg="65", near_m=middle).content
    assert f"element vertex {(metres >= np.float32(middle)).sum()}\n".encode() in points


def test_work_out_of_proportion_is_refused_before_it_waits(served: dict[str, Served]) -> None:
    asked = [("depth", {"size": "129"}, "128 px"), ("segment", {"classes": ",".join(map(str, range(65)))}, "64 is")]
    with guarded(served) as client:
        assert ask(client, "depth", size="128").status_code == 200
        for task, words, told in asked:
            refused = ask(client, task, **words)
            assert refused.status_code == 422 and told in refused.json()["detail"]
        assert "vpd_group_pictures_count 1.0" in client.get("/metrics").text
    with guarded(served, max_size=256, max_new_classes=1) as client:
        assert ask(client, "depth", size="256").status_code == 200
        assert "256 px is the most" in ask(client, "depth", size="257").json()["detail"]
        assert ask(client, "segment", classes="sky, road, zebra").status_code == 200
        assert "2 names must be read" in ask(client, "segment", classes="sky, zebra, emu").json()["detail"]
    with guarded(served, max_size=8, max_new_classes=0) as client:  # what it runs at anyway, and what it knows
        assert ask(client, "depth", size="64").status_code == 200
        assert ask(client, "segment", classes="sky, road").status_code == 200


def test_a_picture_may_be_the_body(client: TestClient) -> None:
    headers = {"content-type": "image/png"}
    found = client.post("/v1/refer?text=cube&format=png", content=picture_bytes(), headers=headers)
    assert found.status_code == 200 and Image.open(io.BytesIO(found.content)).size == (80, 64)


def test_the_service_tells_what_it_is(client: TestClient) -> None:
    models = client.get("/v1/models").json()
    assert [model["task"] for model in models] == list(TASKS)
    assert models[0]["knows"] == {"classes": ["sky", "road", "tree"]} and models[2]["knows"]["scenes"] == [
        "kitchen",
        "hall",
    ]
    assert client.get("/healthz").json() == {"status": "ok", "waiting": 0}
    ask(client, "depth")
    counted = client.get("/metrics").text
    assert 'vpd_requests_total{status="200",task="depth"}' in counted and "vpd_group_pictures_bucket" in counted
    described = client.get("/openapi.json").json()
    form = described["paths"]["/v1/refer"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image", "text"] and "429" in described["paths"]["/v1/refer"]["post"]["responses"]
    page = client.get("/docs")
    assert page.status_code == 200 and "http" not in page.text.replace("http-equiv", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("task", "words", "status", "told"),
    [
        ("segment", {"format": "exe"}, 422, "format"),
        ("segment", {"colour": "red"}, 422, "colour"),
        ("refer", {"text": " "}, 422, "text"),
        ("refer", {"threshold": "2"}, 422, "threshold"),
        ("depth", {"scene": "moon"}, 422, "It knows: kitchen, hall"),
        ("depth", {"model": "other"}, 404, "Served: tiny-depth"),
        ("depth", {"size": "8000"}, 422, "64 px"),
        ("depth", {"near_m": "3", "far_m": "2"}, 422, "near_m=3"),
        ("depth", {"near_m": "-1"}, 422, "near_m=-1"),
        ("depth", {"far_m": "nan"}, 422, "far_m=nan"),
        ("depth", {"far_m": "far"}, 422, "far_m"),
    ],
)
def test_wrong_words_are_named(client: TestClient, task: str, words: dict[str, str], status: int, told: str) -> None:
    answer = ask(client, task, **words)
    assert answer.status_code == status and told in answer.json()["detail"]


def test_limits_of_bytes_and_pixels(client: TestClient) -> None:
    too_long = ask(client, "depth", b"x" * 1_200_000)
    assert too_long.status_code == 413 and "1 MB" in too_long.json()["detail"]

    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield b"x" * 1000

    chunked = client.post("/v1/depth", content=endless(), headers={"content-type": "image/png"})
    assert chunked.status_code == 413
    too_many = ask(client, "depth", picture_bytes(600, 500, kind="JPEG", quality=5))
    assert too_many.status_code == 413 and "megapixels" in too_many.json()["detail"]
    assert ask(client, "depth").status_code == 200


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(served: dict[str, Served]) -> None:
    with guarded(served, queue=1) as client, client.service.engine.place():  # type: ignore[attr-defined]
        refused = ask(client, "depth")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    with guarded(served, queue=1) as client:
        assert ask(client, "depth").status_code == 200
        client.service.engine.stop()  # type: ignore[attr-defined]
        assert ask(client, "depth").status_code == 503
        assert client.get("/healthz").status_code == 503


def test_whoever_asks_as_soon_as_the_address_is_told_waits_for_the_start() -> None:
    with listen(ServiceSettings(port=0)) as listening:
        socket.create_connection(listening.getsockname(), timeout=20).close()
        with pytest.raises(UsageError, match="Cannot listen at 127.0.0.1"):
            listen(ServiceSettings(port=listening.getsockname()[1]))


def test_a_stop_waits_as_long_as_a_request_may_take(served: dict[str, Served], monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def __init__(self, config: Any, _on_stop: Any) -> None:
            waits.append(config.timeout_graceful_shutdown)

        def run(self, sockets: Any) -> None:
            pass

    waits: list[int] = []
    settings = ServiceSettings(port=0, timeout_s=10.5)
    monkeypatch.setattr("vpd.serving.run._Server", Server)
    with listen(settings) as listening:
        service = Service([served["depth"]], settings)
        serve(create_app(service), service, settings, listening)
    assert waits == [2 * 11 + 15]  # to arrive, and then to be answered


def test_an_answer_that_takes_too_long_is_given_up(served: dict[str, Served]) -> None:
    with guarded(served, timeout_s=0.2) as client:
        engine, go_on, began = client.service.engine, threading.Event(), threading.Event()  # type: ignore[attr-defined]

        def slow(asked: Any) -> Any:
            began.set()
            go_on.wait(20)
            return asked

        engine.submit(slow, key="slow", asked=None)
        assert began.wait(20)
        late = ask(client, "depth")
        assert late.status_code == 504 and "0.2 s" in late.json()["detail"]
        go_on.set()


def test_a_token_opens_and_nothing_else_does(served: dict[str, Served]) -> None:
    with guarded(served, "http://example.org", host="0.0.0.0", token="open sesame") as client:
        assert client.get("/healthz").status_code == 200
        for wrong in ({}, {"authorization": "Bearer no"}, {"cookie": "vpd_token=no"}, {"authorization": "open sesame"}):
            assert client.get("/v1/models", headers=wrong).status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer open sesame"}).status_code == 200
        assert client.get("/v1/models", auth=("anybody", "open sesame")).status_code == 200
        assert client.get("/v1/models", auth=("open sesame", "no")).status_code == 401
        entered = client.get("/docs?token=open%20sesame&a=b", follow_redirects=False)
        assert entered.status_code == 303 and entered.headers["location"] == "/docs?a=b"
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert client.get("/docs").status_code == 200  # by the cookie
        assert client.get("/docs", auth=("me", "for a proxy before it")).status_code == 200
        away = client.get("//evil.example/?token=open%20sesame", follow_redirects=False)
        assert not away.headers.get("location", "/x").startswith("//")


def test_pages_of_others_may_not_call_unless_named(served: dict[str, Served]) -> None:
    def call(client: TestClient, origin: str) -> Any:
        files = {"image": ("x.png", picture_bytes())}
        return client.post("/v1/depth", files=files, headers={"origin": origin})

    with guarded(served, origins=("https://friend.example",)) as client:
        assert call(client, "https://evil.example").status_code == 403
        allowed = call(client, "https://friend.example")
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://friend.example"
        assert call(client, "http://127.0.0.1").status_code == 200  # its own
    with guarded(served) as client:
        assert "access-control-allow-origin" not in call(client, "http://127.0.0.1").headers
        renamed = client.get("/v1/models", headers={"host": "evil.example"})  # DNS that points here
        assert renamed.status_code == 421


def test_waiting_pictures_run_together_and_each_gets_its_own_answer(served: dict[str, Served]) -> None:
    with guarded(served, batch=8) as client:
        pictures = [picture_bytes(80, 64, seed=seed) for seed in range(6)]
        alone = [ask(client, "refer", one, text=f"cube {n}").json() for n, one in enumerate(pictures)]
        engine, go_on, began = client.service.engine, threading.Event(), threading.Event()  # type: ignore[attr-defined]

        def hold(asked: Any) -> Any:
            began.set()
            go_on.wait(20)
            return asked

        engine.submit(hold, key="hold", asked=None)
        assert began.wait(20)
        with ThreadPoolExecutor(7) as pool:
            calls = [pool.submit(ask, client, "refer", one, text=f"cube {n}") for n, one in enumerate(pictures)]
            bad = pool.submit(ask, client, "refer", pictures[0][:300])
            while engine.waiting < 7:
                pass
            go_on.set()
            together = [call.result().json() for call in calls]
        assert bad.result().status_code == 422
        for one, other in zip(alone, together, strict=True):
            assert one["text"] == other["text"] and abs(one["share"] - other["share"]) < 2e-3
        counted = client.get("/metrics").text  # each alone, then the one that held the rest up, then all seven
        assert "vpd_group_pictures_count 8.0" in counted and "vpd_group_pictures_sum 14.0" in counted


def test_500_malformed_uploads_do_no_harm(client: TestClient) -> None:
    statuses: dict[int, int] = {}
    for number, (name, content) in enumerate(malformed(500)):
        task = TASKS[number % 3]
        answer = client.post(f"/v1/{task}", files={"image": (name, content)}, data=WORDS[task])
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code in (200, 413, 422), (name, answer.text)
        if answer.status_code != 200:  # some of the damage hits nothing that counts
            told = answer.json()["detail"]
            assert "fuzz" not in told and "Traceback" not in told and len(told) < 500
    assert statuses[422] > 200 and statuses[413] >= 2
    assert ask(client, "segment").status_code == 200


def test_broken_forms_are_told_so(client: TestClient) -> None:
    part = b"--a\r\nContent-Disposition: form-data; name=image\r\n\r\nx\r\n--a--\r\n"
    bodies = [
        ({"content-type": "multipart/form-data"}, b"x"),
        ({"content-type": "multipart/form-data; boundary=a"}, b"x"),
        ({"content-type": "multipart/form-data; boundary=a"}, b"--a\r\n\r\nx\r\n--a--\r\n"),
        ({"content-type": "multipart/form-data; boundary=a; charset=rot13"}, part),
        ({"content-type": "application/json"}, b"{}"),
        ({"content-type": "\x00"}, b"{}"),
        ({}, b""),
    ]  # fmt: skip
    for headers, body in bodies:
        assert client.post("/v1/depth", content=body, headers=headers).status_code in (400, 415, 422)
    two = [("image", ("a.png", picture_bytes())), ("image", ("b.png", picture_bytes()))]
    assert client.post("/v1/depth", files=two).status_code == 400
    many = {f"field{number}": "x" for number in range(40)}
    assert client.post("/v1/depth", files={"image": ("a", picture_bytes())}, data=many).status_code == 400
    assert client.get("/v1/depth").status_code == 405
    assert client.get("/gradio_api/proxy=http://example.org").status_code == 404
