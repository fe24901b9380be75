"""The backend for Label Studio, asked as Label Studio asks; its own library checks the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from findable import findable
from label_studio_side import BASE, BRUSH, EXPRESSION, LEGACY, POLYGON, Studio, predict_request, setup_request, task

from serving_models import needs, picture_bytes, tiny_models
from vpd.datasets.label_studio import decode_brush
from vpd.errors import UsageError
from vpd.serving.served import Served

needs("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx")

from starlette.testclient import TestClient  # noqa: E402

from integrations.label_studio.backend import PATHS, Backend, add_backend  # noqa: E402
from integrations.label_studio.label_config import read_label_config  # noqa: E402
from integrations.label_studio.pictures import Pictures  # noqa: E402
from vpd.serving.guard import Guard  # noqa: E402
from vpd.serving.routes import create_app, is_service_path  # noqa: E402
from vpd.serving.service import Service  # noqa: E402
from vpd.serving.settings import ServiceSettings  # noqa: E402

pytestmark = pytest.mark.extras
ADDRESS = "/data/upload/3/1a2b3c4d-a.png"
MANY = "".join(f'<Label value="thing {number}"/>' for number in range(301))


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    return findable(tiny_models(tiny_diffusion))


def client_of(model: Any, studio: Studio | None = None, **options: Any) -> TestClient:
    """A client of a backend with this model, whose Label Studio has two pictures and a broken one."""
    studio = studio or Studio(
        {ADDRESS: picture_bytes(), "/data/b.png": picture_bytes(96, 70, seed=1), "/data/bad": b"x"}
    )
    settings = ServiceSettings(
        token=options.pop("token", None), timeout_s=options.pop("timeout_s", 60.0), max_upload_mb=1.0
    )
    served = Served("mugs", model, max_px=250_000)
    service = Service([served], settings)
    app = create_app(service)
    pictures = Pictures(BASE, token=LEGACY, most_bytes=settings.most_bytes, transport=studio.transport)
    backend = Backend(service, served, pictures, **options)
    add_backend(app, service, backend)
    guard = Guard(app, settings, is_open=lambda path: path in PATHS or is_service_path(path))
    client = TestClient(guard, base_url="http://127.0.0.1:9090", raise_server_exceptions=False)
    client.backend, client.service = backend, service  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="module")
def segment(models: dict[str, Any]) -> Iterator[TestClient]:
    with client_of(models["segment"]) as client:
        yield client


@pytest.fixture(scope="module")
def refer(models: dict[str, Any]) -> Iterator[TestClient]:
    with client_of(models["refer"]) as client:
        yield client


def results(client: TestClient, *tasks: Any, **asked: Any) -> list[Any]:
    answer = client.post("/predict", json=predict_request(tasks, **asked))
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def masks_of(prediction: Any) -> dict[str, Any]:
    """Label -> its brush mask."""
    return {
        region["value"]["brushlabels"][0]: decode_brush(
            region["value"]["rle"], (region["original_height"], region["original_width"]), "it"
        )
        for region in prediction["result"]
    }


def image_of(content: bytes) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(content))


def test_it_says_that_it_is_up_and_which_model_it_has(segment: TestClient, models: dict[str, Any]) -> None:
    assert segment.get("/health").json()["status"] == "UP"
    answer = segment.post("/setup", json=setup_request())
    version = answer.json()["model_version"]
    assert answer.status_code == 200 and version.startswith("mugs-")
    assert segment.get("/versions").json() == {"versions": [version]}
    with client_of(models["segment"]) as again, client_of(models["refer"]) as other:
        assert again.post("/setup", json=setup_request()).json()["model_version"] == version
        assert other.post("/setup", json=setup_request()).json()["model_version"] != version


def test_brush_regions_are_the_models_masks(segment: TestClient, models: dict[str, Any]) -> None:
    first, second = results(segment, task(ADDRESS), task("/data/b.png", 8))
    expected = models["segment"].predict(image_of(picture_bytes()), scores=True)
    drawn = {region.name: region for region in expected.regions()}
    found = masks_of(first)
    assert set(found) == {{"road": "Road", "tree": "tree"}[name] for name in drawn if name in ("road", "tree")} != set()
    for region in first["result"]:
        name = region["value"]["brushlabels"][0]
        np.testing.assert_array_equal(found[name], drawn[name.lower()].mask)
        assert region["score"] == pytest.approx(drawn[name.lower()].score, abs=1e-3)
        assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "photo", "brushlabels")
    assert 0 < first["score"] <= 1 and first["model_version"] == segment.backend.version  # type: ignore[attr-defined]
    assert {(each["original_width"], each["original_height"]) for each in second["result"]} == {(96, 70)}
    assert len({region["id"] for each in (first, second) for region in each["result"]}) == len(
        first["result"] + second["result"]
    )


@pytest.mark.parametrize("config", [BRUSH, POLYGON])
def test_label_studios_own_library_accepts_the_answer(segment: TestClient, config: str) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="not installed: label-studio-sdk")
    pytest.importorskip("cv2", reason="not installed: opencv-python-headless")
    from label_studio_sdk.label_interface.objects import PredictionValue

    (prediction,) = results(segment, task(ADDRESS), config=config)
    value = PredictionValue(**prediction)
    assert value.result and value.score and value.model_version
    assert interface.LabelInterface(config).validate_prediction(prediction, return_errors=True) == []


def test_labels_that_the_model_does_not_know_are_asked_for(segment: TestClient, models: dict[str, Any]) -> None:
    config = BRUSH.replace('value="Road"', 'value="zebra"')
    (prediction,) = results(segment, task(ADDRESS), config=config)
    own = models["segment"].config.classes
    expected = models["segment"].predict(image_of(picture_bytes()), classes=[*own, "zebra"])
    found = masks_of(prediction)
    for region in expected.regions():
        if region.name in ("tree", "zebra"):
            np.testing.assert_array_equal(found.pop(region.name), region.mask)
    assert not found


def test_projects_without_a_known_label_are_refused(models: dict[str, Any], tiny_diffusion: Path) -> None:
    import vpd
    from tiny import CLASSES

    closed = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8).eval()
    config = BRUSH.replace('value="Road"', 'value="zebra"').replace('value="Tree" alias="tree"', 'value="lion"')
    with client_of(closed) as client:
        assert client.post("/setup", json=setup_request()).status_code == 200
        answer = client.post("/setup", json=setup_request(config))
        assert answer.status_code == 422 and "it knows sky, road, tree" in answer.json()["detail"]
    with pytest.raises(UsageError, match="A model for depth answers with numbers"):
        client_of(models["depth"])


def test_an_expression_comes_from_the_person_or_the_task(refer: TestClient, models: dict[str, Any]) -> None:
    image = image_of(picture_bytes())

    def expected(text: str) -> Any:
        return models["refer"].predict(image, text=text).numpy()

    for given, entered, text, label in (
        (task(ADDRESS, caption="the red ball"), None, "the red ball", "ball"),
        (task(ADDRESS, caption="the red ball"), "a cube", "a cube", "cube"),
        (task(ADDRESS), "something green", "something green", "cube"),
    ):
        (prediction,) = results(refer, given, config=EXPRESSION, entered=entered)
        found = masks_of(prediction)
        if expected(text).any():
            np.testing.assert_array_equal(found.pop(label), expected(text))
        assert not found
    (prediction,) = results(refer, task(ADDRESS), config=EXPRESSION)  # without any, the labels are
    found = masks_of(prediction)
    for name in ("cube", "ball"):
        np.testing.assert_array_equal(found.get(name, expected(name) & False), expected(name))
    assert found


def test_expressions_that_fit_nothing_leave_nothing(models: dict[str, Any]) -> None:
    with client_of(models["refer"], min_presence=1.0) as client:
        (prediction,) = results(client, task(ADDRESS, caption="a dragon"), config=EXPRESSION)
    assert prediction["result"] == [] and "score" not in prediction


def test_a_bad_task_does_not_cost_the_others(segment: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [task("/data/bad", 1), task(ADDRESS, 2), task("http://169.254.169.254/", 3), task("/data/gone", 4)]
    found = results(segment, *tasks)
    assert [bool(each["result"]) for each in found] == [False, True, False, False]
    assert found[0]["model_version"].endswith("(failed)") and not found[1]["model_version"].endswith("(failed)")
    assert "Task 3: Pictures of 'http://169.254.169.254' are not fetched" in caplog.text
    answer = segment.post("/predict", json=predict_request([task("/data/gone")]))
    assert answer.status_code == 422 and "answers 404" in answer.json()["detail"]


def test_all_labels_of_a_picture_share_its_time(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()
        timer = Timer(0.6, answer.set_result, [SimpleNamespace(prediction=prediction)])
        timer.daemon = True
        timer.start()
        return answer

    prediction = models["refer"].predict(image_of(picture_bytes()), text="cube")
    with client_of(models["refer"], timeout_s=1.0) as client:
        monkeypatch.setattr(client.service, "ask", slow)  # type: ignore[attr-defined]
        answer = client.post("/predict", json=predict_request([task(ADDRESS)], EXPRESSION))  # two labels
    assert answer.status_code == 422 and "no answer within 1 s" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tasks": []},
        {"tasks": [], "label_config": BRUSH},
        {"tasks": [{"id": 1}], "label_config": BRUSH},
        {"tasks": [task(ADDRESS)], "label_config": "<View/>"},
        {"tasks": [task(ADDRESS)] * 1001, "label_config": BRUSH},
        {"tasks": [task(ADDRESS, caption="x" * 501)], "label_config": EXPRESSION},
        {"tasks": [task(ADDRESS)], "label_config": EXPRESSION.replace('"cube"', f'"{"x" * 501}"')},
        {"tasks": [task(ADDRESS)], "label_config": EXPRESSION.replace('<Label value="cube"/>', MANY)},
    ],
)
def test_odd_requests_are_refused(refer: TestClient, body: Any) -> None:
    assert refer.post("/predict", json=body).status_code == 422
    assert refer.post("/predict", content=b"{").status_code == 422
    assert refer.post("/setup", json={"schema": 3}).status_code == 422


@pytest.mark.parametrize("unit", ["<?", "<!--", "<![CDATA[", "<BrushLabels>"])
def test_configurations_are_looked_at_once(unit: str) -> None:
    source = unit * (1_000_000 // len(unit))
    with pytest.raises(UsageError, match="is no XML"):
        read_label_config(source)


def test_labels_of_tags_in_one_another_are_read_once() -> None:
    deep = 2000
    nested = '<BrushLabels name="a" toName="photo"><Label value="x"/>' * deep + "</BrushLabels>" * deep
    config = read_label_config(f'<View><Image name="photo" value="$image"/>{nested}</View>')
    (control,) = config.controls
    assert len(control.labels) == deep


@pytest.mark.parametrize("before", ["", "<!-- a -->", "<?x y?>", "<!--<?-->"])
def test_document_types_are_refused(before: str) -> None:
    with pytest.raises(UsageError, match="has a document type"):
        read_label_config(before + '<!DOCTYPE View [<!ENTITY a "b">]>' + BRUSH.strip())
    assert read_label_config(BRUSH.replace("<View>", "<View><!-- <!DOCTYPE View> --><![CDATA[<!]]>").strip()).controls


@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_a_body_is_read_in_a_place_and_in_time(models: dict[str, Any], path: str) -> None:
    inside, sent = list[int](), list[Any]()

    async def receive() -> Any:  # of somebody who never sends it
        inside.append(client.service.engine.inside)  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    with client_of(models["segment"], timeout_s=0.1) as client:
        headers = [(b"host", b"127.0.0.1:9090"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        asyncio.run(client.app({**scope, "scheme": "http", "http_version": "1.1"}, receive, send))  # type: ignore[arg-type]
    assert inside == [1] and sent[0]["status"] == 408
    with client_of(models["segment"]) as client:
        client.service.engine.stop()  # type: ignore[attr-defined]
        assert client.post(path, json={}).status_code == 503


def test_more_labels_than_the_service_takes_are_refused(segment: TestClient) -> None:
    config = BRUSH.replace("</BrushLabels>", f"{MANY}</BrushLabels>")
    answer = segment.post("/setup", json=setup_request(config))
    assert answer.status_code == 422 and "301 labels" in answer.json()["detail"]


@pytest.mark.parametrize("context", [None, [], {}, {"result": 3}, {"result": [3, {"value": {"text": [3]}}]}])
def test_odd_contexts_are_passed_over(refer: TestClient, context: Any) -> None:
    body = {**predict_request([task(ADDRESS)], EXPRESSION), "params": {"context": context}}
    assert refer.post("/predict", json=body).status_code == 200


def test_training_is_not_done_from_here(segment: TestClient) -> None:
    assert segment.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
    assert "vpd train" in segment.post("/webhook", json={"action": "START_TRAINING"}).json()["detail"]


def test_label_studio_shows_the_token_as_a_password(models: dict[str, Any]) -> None:
    with client_of(models["segment"], token="a long word") as client:
        assert client.post("/setup", json=setup_request()).status_code == 401
        assert client.post("/setup", json=setup_request(), auth=("vpd", "another word")).status_code == 401
        assert client.post("/setup", json=setup_request(), auth=("vpd", "a long word")).status_code == 200
        assert client.get("/health", headers={"authorization": "Basic !!"}).status_code == 401
    script = {"origin": "https://elsewhere.test"}
    with client_of(models["segment"]) as client:
        assert client.post("/predict", json=predict_request([task(ADDRESS)]), headers=script).status_code == 403


def test_neither_host_nor_token_of_a_request_are_used(models: dict[str, Any]) -> None:
    studio = Studio({ADDRESS: picture_bytes()})
    with client_of(models["segment"], studio) as client:
        client.post("/setup", json=setup_request())
        results(client, task(ADDRESS))
    assert studio.asked == [(BASE + ADDRESS, f"Token {LEGACY}")]
