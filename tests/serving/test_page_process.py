"""A running page, asked as its scripts ask it: fields of the chosen model, its files, uploads that are no pictures."""

from __future__ import annotations

import io
import json
import signal
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpd
from serving_models import malformed, needs, picture_bytes, tiny_models
from serving_process import App, running_app
from vpd.config import Resize

needs("gradio", "fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx")

import httpx  # noqa: E402

from serving_page import PageScripts, source_of  # noqa: E402

pytestmark = pytest.mark.extras
TEXT = "the red cube"
WAIT_S = 900
MOST_GROWTH_BYTES = 50_000_000


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two a task, of which the second knows and cuts otherwise."""
    root, tiny = tmp_path_factory.mktemp("models"), tiny_models(tiny_diffusion)
    fit = Resize(size_px=64, max_long_px=256)
    small = {"fit": fit, "head_channels": 8}
    tiny["other-segment"] = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=("cube", "floor"), **small)
    depth = {"feature_channels": 16, "deconv_channels": (8, 8, 8), **small}
    tiny["other-depth"] = vpd.DepthModel.from_diffusion(tiny_diffusion, scenes=("attic",), **depth)
    tiny["other-refer"] = vpd.ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=fit)
    for name, model in tiny.items():
        if model.task == "refer":  # in the middle of what it says, which is not 0.5
            said = model.eval().predict(Image.open(io.BytesIO(picture_bytes())), text=TEXT).probability
            model.config = model.config.model_copy(update={"threshold": round(float(said.median()), 5)})
        model.save(root / name)
    return {name: root / name for name in tiny}


@pytest.fixture(scope="module")
def app(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    options = [part for path in models.values() for part in ("--model", str(path))]
    temporary = tmp_path_factory.mktemp("temporary")
    with running_app("--max-upload-mb", "1", "--timeout", str(WAIT_S), *options, temporary=temporary) as running:
        yield running


@pytest.fixture
def http(app: App) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.url, timeout=WAIT_S) as http:
        yield http


@pytest.mark.parametrize("name", ["refer", "other-refer"])
def test_masks_of_the_page_are_those_of_the_service_and_of_predict(
    http: httpx.Client, models: dict[str, Path], name: str
) -> None:
    page, content, model = PageScripts(http), picture_bytes(), vpd.load(models[name], device="cpu")
    cut = page.fields("refer-run")["Probability of a pixel"]
    if name != "refer":
        cut = next(each["value"] for each in page.choose("refer-model", name) if "value" in each)
    assert cut == model.config.threshold
    (picture,) = page.upload(content)
    changes = {"Picture: upload, paste, or webcam": picture, "Model": name, "Expression": TEXT}
    shown = page.press("refer-run", **changes, **{"Probability of a pixel": cut})
    of_page = http.get(f"{source_of(shown)}/file/png").content
    words = {"text": TEXT, "model": name, "format": "png"}
    of_service = http.post("/v1/refer", files={"image": content}, data=words).content
    assert of_page == of_service
    predicted = model.predict(Image.open(io.BytesIO(content)), text=TEXT)
    mask = np.asarray(Image.open(io.BytesIO(of_page))) > 0
    np.testing.assert_array_equal(mask, predicted.numpy())
    assert (mask != (predicted.probability.numpy() > 0.5)).any()


def test_fields_show_what_the_chosen_model_knows(http: httpx.Client) -> None:
    page = PageScripts(http)
    (classes,) = page.choose("segment-model", "other-segment")
    assert classes["placeholder"] == "cube, floor"
    (scene,) = page.choose("depth-model", "other-depth")
    assert [value for _, value in scene["choices"]] == ["", "attic"] and scene["value"] == ""
    assert [each["visible"] for each in page.choose("batch-model", "other-depth")] == [False, True, True]
    assert [each["visible"] for each in page.choose("batch-model", "other-refer")] == [True, False, False]
    for strange in ("nobody", "depth"):  # of another task
        assert all("value" not in each for each in page.choose("refer-model", strange))


def test_depth_comes_in_the_colours_that_were_asked_for(http: httpx.Client) -> None:
    page = PageScripts(http)
    contents = [picture_bytes(seed=seed) for seed in (1, 2)]
    limits = {"near_m": 4.0, "far_m": 5.0}

    def of_service(content: bytes, **words: float) -> bytes:
        data = {"format": "overlay", "model": "depth", **words}
        return http.post("/v1/depth", files={"image": content}, data=data).raise_for_status().content

    pictures = page.upload(*contents)
    one = source_of(page.press("depth-run", **{"Picture: upload, paste, or webcam": pictures[0]}))
    assert http.get(f"{one}/file/overlay", params=limits).content == of_service(contents[0], **limits)
    assert http.get(f"{one}/file/overlay").content == of_service(contents[0])
    refused = http.get(f"{one}/file/overlay", params={"near_m": 5, "far_m": 4})
    assert refused.status_code == 422 and "near_m=5" in refused.json()["detail"]
    asked = {"Pictures": pictures, "Model": "depth", "Near limit, m": "4", "Far limit, m": "5"}
    archive = zipfile.ZipFile(io.BytesIO(http.get(source_of(page.press("batch-run", **asked))).content))
    for number, content in enumerate(contents):
        assert archive.read(f"{number}.overlay.jpg") == of_service(content, **limits)
    unlimited = page.press("batch-run", Pictures=pictures[:1], Model="depth")
    archive = zipfile.ZipFile(io.BytesIO(http.get(source_of(unlimited)).content))
    assert archive.read("0.overlay.jpg") == of_service(contents[0])
    nonsense = page.press("batch-run", **{**asked, "Far limit, m": "3"})
    assert "Colours cannot go from near_m=4" in nonsense and nonsense.count("Colours") == 1


def vanish(app: App, content: bytes) -> None:
    """Begin to upload a picture, and hang up."""
    with socket.create_connection(("127.0.0.1", app.port)) as connection:
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=a\r\n"
        )
        head += "Content-Length: 100000\r\n\r\n"
        part = '--a\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
        connection.sendall((head + part).encode() + content[: len(content) // 2])


def test_malformed_uploads_cost_no_memory_and_no_good_answer(app: App, http: httpx.Client) -> None:
    page = PageScripts(http)

    def answers() -> bool:
        (picture,) = page.upload(picture_bytes())
        return "vpd-viewer" in page.press("depth-run", **{"Picture: upload, paste, or webcam": picture})

    def hostile_round() -> None:
        files = list(malformed(100))
        stored = page.upload(*(content for _, content in files))
        told = page.press("batch-run", Pictures=stored, Model="depth")
        assert "of 100 predicted" in told and told.count("<li>") > 30
        for number, (name, content) in enumerate(files):
            http.post("/gradio_api/upload", files={"files": (name, content)})
            if number % 5 == 0:
                vanish(app, picture_bytes(200, 200, seed=number))
        for body in (b"", b"x", b"--a\r\n\r\nx\r\n--a--\r\n", b"--a\r\n" * 5000):
            headers = {"content-type": "multipart/form-data; boundary=a"}
            assert http.post("/gradio_api/upload", content=body, headers=headers).status_code < 600

    assert answers()
    hostile_round()  # what is loaded once, is
    before = app.memory_bytes()
    hostile_round()
    assert answers()
    grown = app.memory_bytes() - before
    assert grown < MOST_GROWTH_BYTES, f"{grown / 1e6:.0f} MB"
    assert json.loads(http.get("/healthz").content)["status"] == "ok"
    assert app.stop() == 128 + signal.SIGTERM
    assert "Traceback" not in "".join(app.said), "".join(app.said)[-3000:]
