"""The page in a browser, end to end: mouse, keyboard alone, a phone's window, and what the browser asks for."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving_models import needs, picture_bytes
from serving_process import App, running_app

needs("gradio", "fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "httpx", "selenium")

import httpx  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service as Driver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="there is no Chromium with its driver here"),
]
WAIT_S = 240
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def proxy() -> Iterator[socket.socket]:
    """Where all that the service asks of the network would come."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def app(temporary: Path, proxy: socket.socket) -> Iterator[App]:
    with running_app(temporary=temporary, proxy=f"http://127.0.0.1:{proxy.getsockname()[1]}") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000", *QUIET):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Driver(str(DRIVER)))
    driver.set_page_load_timeout(WAIT_S)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(app: App, browser: webdriver.Chrome) -> Page:
    browser.get(app.url)
    page = Page(browser)
    page.one("#segment-run")
    page.settled()
    return page


class Page:
    """What a person does on the page."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def one(self, selector: str) -> WebElement:
        """An element, once it is shown."""

        def shown(browser: webdriver.Chrome) -> WebElement | None:
            found = [each for each in browser.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]
            return found[0] if found else None

        return WebDriverWait(self.browser, WAIT_S).until(shown, f"nothing is shown that is {selector}")

    def until(self, holds: Any, what: str = "") -> Any:
        return WebDriverWait(self.browser, WAIT_S).until(lambda _: holds(), what)

    def settled(self) -> None:
        """Wait until nothing covers the page any more."""
        covers = ".wrap.default.full.translucent, .loading"
        self.until(lambda: not [c for c in self.browser.find_elements(By.CSS_SELECTOR, covers) if c.is_displayed()])

    def open(self, tab: str) -> None:
        self.settled()

        def shown() -> list[WebElement]:
            buttons = self.browser.find_elements(By.CSS_SELECTOR, "button[role=tab], .overflow-dropdown button")
            return [button for button in buttons if button.is_displayed() and button.text == tab]

        if not shown():  # on a narrow window
            self.one("button[aria-label='More tabs']").click()
        self.until(shown, f"no tab {tab}")[0].click()

    def take_example(self, task: str) -> None:
        panel = next(p for p in self.browser.find_elements(By.CSS_SELECTOR, "[role=tabpanel]") if p.is_displayed())
        self.until(lambda: panel.find_elements(By.CSS_SELECTOR, ".gallery-item, tbody tr"))
        panel.find_elements(By.CSS_SELECTOR, ".gallery-item, tbody tr")[0].click()
        self.one(f"#{task}-picture img")
        self.settled()

    def run(self, task: str) -> WebElement:
        """Press the button; gives the answer."""
        self.browser.execute_script("document.querySelectorAll('vpd-viewer, [role=alert]').forEach((e) => e.remove())")
        self.one(f"#{task}-run").click()
        answer = self.one(f"#{task}-viewer vpd-viewer .vpd-stage, #{task}-viewer [role=alert]")
        self.settled()
        return answer

    def drawn(self) -> np.ndarray:
        """The pixels over the picture, RGBA."""
        script = (
            "const c = [...document.querySelectorAll('.vpd-stage canvas')].find((c) => c.offsetParent);"
            "return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
        )
        height, width, data = self.browser.execute_script(script)
        return np.array(data, np.uint8).reshape(height, width, 4)

    def source(self) -> str:
        """Address of the result that is shown."""
        viewers = self.browser.find_elements(By.CSS_SELECTOR, "vpd-viewer")
        return str(next(v for v in viewers if v.is_displayed()).get_attribute("src"))

    def slide(self, selector: str, value: str) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.browser.execute_script(script, self.one(selector), value)


def test_segmentation_shows_classes_and_hands_out_files(app: App, page: Page) -> None:
    page.take_example("segment")
    stage = page.run("segment")
    assert "classes found" in page.one(".vpd-summary").text
    ActionChains(page.browser).move_to_element_with_offset(stage, 3, 3).perform()
    readout = page.one(".vpd-readout").text
    assert " at (" in readout
    name = readout.partition(" at ")[0]
    full = page.drawn()
    page.slide(".vpd-controls input[type=range]", "0")
    assert page.drawn()[..., 3].max() == 0 < full[..., 3].min()
    page.slide(".vpd-controls input[type=range]", "60")
    next(
        b for b in page.browser.find_elements(By.CSS_SELECTOR, ".vpd-legend button") if b.text.startswith(name)
    ).click()
    assert (page.drawn()[..., 3] == 0).any()
    parts = {kind: httpx.get(f"{app.url}/{page.source()}/{kind}") for kind in ("file/png", "file/npy", "answer.json")}
    labels = np.asarray(Image.open(io.BytesIO(parts["file/png"].content)))
    np.testing.assert_array_equal(labels, np.load(io.BytesIO(parts["file/npy"].content)))
    assert labels.shape == (256, 256) and parts["answer.json"].json()["model"] == "world-segment"
    files = {"image": httpx.get(page.one("#segment-picture img").get_attribute("src")).content}
    other = httpx.post(f"{app.url}/v1/segment", files=files, data={"format": "png"}, timeout=WAIT_S)
    assert other.content == parts["file/png"].content  # page and service give the same file


def test_referring_shows_mask_and_attention_of_each_word(app: App, page: Page) -> None:
    page.open("Refer")
    page.take_example("refer")
    page.run("refer")
    text = page.one("#refer-viewer .vpd-summary").text.split("”")[0].lstrip("“")
    files = {"image": httpx.get(page.one("#refer-picture img").get_attribute("src")).content}
    words = {"format": "png", "text": text}  # cut where the model was calibrated to be, which is not at 0.5
    other = httpx.post(f"{app.url}/v1/refer", files=files, data=words, timeout=WAIT_S)
    assert other.content == httpx.get(f"{app.url}/{page.source()}/file/png").content
    buttons = page.browser.find_elements(By.CSS_SELECTOR, "#refer-viewer .vpd-legend button")
    assert [button.text for button in buttons] == ["mask", *text.split()]
    assert np.unique(page.drawn()[..., 3]).size <= 2  # in the mask or out of it
    buttons[-1].click()
    page.until(lambda: np.unique(page.drawn()[..., 3]).size > 8, "attention is soft")


def test_depth_reads_metres_and_makes_points(app: App, page: Page) -> None:
    page.open("Depth")
    page.take_example("depth")
    stage = page.run("depth")
    ActionChains(page.browser).move_to_element(stage).perform()
    told = page.one("#depth-viewer .vpd-readout").text
    metres, _, place = told.partition(" m at ")
    column, row = map(int, place.strip("()").split(","))
    depth_m = np.load(io.BytesIO(httpx.get(f"{app.url}/{page.source()}/file/npy").content))
    assert float(metres) == pytest.approx(float(depth_m[row, column]), abs=0.02)
    before = page.drawn()
    picture = next(a for a in page.browser.find_elements(By.CSS_SELECTOR, "#depth-viewer a") if "Picture" in a.text)
    assert str(picture.get_attribute("href")).endswith("/file/overlay")  # as `vpd predict` draws it
    page.slide("#depth-viewer input[id^=vpd-far]", "4")
    assert (page.drawn() != before).any()
    link = page.one("#depth-viewer a[download='points.ply']").get_attribute("href")
    assert "fov_deg=65" in link and "far_m=4" in link
    assert str(picture.get_attribute("href")).endswith("&far_m=4")  # in the colours that are shown
    assert httpx.get(str(picture.get_attribute("href"))).headers["content-type"] == "image/jpeg"
    points = httpx.get(link).content
    assert points.startswith(b"ply\n") and f"element vertex {(depth_m <= 4).sum()}\n".encode() in points


def test_the_keyboard_is_enough(page: Page) -> None:
    def press(*keys: str) -> None:
        ActionChains(page.browser).send_keys(*keys).perform()

    def go_to(selector: str) -> WebElement:
        """By the tabulator alone."""
        for _ in range(80):
            press(Keys.TAB)
            found = page.browser.switch_to.active_element
            if page.browser.execute_script("return arguments[0].matches(arguments[1])", found, selector):
                return found
        raise AssertionError(f"The tabulator never came to {selector}.")

    go_to("button[role=tab]")
    go_to("[id=segment-run]")
    press(Keys.ENTER)
    assert "Give a picture first" in page.one("#segment-viewer [role=alert]").text
    go_to(".gallery-item, tbody tr, .gallery button")
    press(Keys.ENTER)
    page.one("#segment-picture img")
    page.settled()
    page.browser.execute_script("document.querySelector('#segment-run').focus()")
    press(Keys.ENTER)
    page.one("#segment-viewer .vpd-stage")
    go_to(".vpd-stage")
    press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    first = page.one(".vpd-readout").text
    press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert " at (" in first and page.one(".vpd-readout").text != first
    assert page.one(".vpd-stage").get_attribute("aria-label").startswith("5 classes")
    before = page.drawn()
    go_to(".vpd-row input[type=range]")
    press(Keys.HOME)
    page.until(lambda: page.drawn()[..., 3].max() < before[..., 3].max())
    go_to(".vpd-legend button")
    press(Keys.SPACE)
    assert page.one(".vpd-legend button[aria-pressed=false]")
    go_to(".vpd-downloads a")


def test_a_phone_shows_all_of_it_without_sideways_scrolling(
    app: App, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(app.url)
        page = Page(browser)
        page.one("#segment-run")
        page.settled()
        for tab, task in (("Segment", "segment"), ("Depth", "depth")):
            page.open(tab)
            page.take_example(task)
            stage = page.run(task)
            page.until(lambda stage=stage: 0 <= stage.rect["y"] - browser.execute_script("return scrollY") < 500)
            assert browser.execute_script("return document.scrollingElement.scrollWidth") <= 390
            assert stage.rect["width"] > 300
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_uploads_are_read_within_limits_and_named_where_they_fail(page: Page, tmp_path: Path) -> None:
    photo, broken = tmp_path / "a photo.jpg", tmp_path / "broken.png"
    photo.write_bytes(picture_bytes(120, 90, kind="JPEG"))
    broken.write_bytes(picture_bytes(120, 90)[:500])
    for path, told in ((photo, ".vpd-stage"), (broken, "[role=alert]")):
        chooser = page.browser.find_element(By.CSS_SELECTOR, "#segment-picture input[type=file]")
        chooser.send_keys(str(path))
        page.one("#segment-picture img")
        page.settled()
        page.run("segment")
        assert page.one(f"#segment-viewer {told}")
        page.one("#segment-picture button[aria-label='Remove Image']").click()


def test_many_pictures_become_one_archive(app: App, page: Page, tmp_path: Path) -> None:
    page.open("Many pictures")
    paths = [tmp_path / "one.png", tmp_path / "two.jpg", tmp_path / "three.png"]
    for path, content in zip(paths, (picture_bytes(), picture_bytes(kind="JPEG"), b"nothing"), strict=True):
        path.write_bytes(content)
    page.browser.find_element(By.CSS_SELECTOR, "#batch-files input[type=file]").send_keys("\n".join(map(str, paths)))
    page.until(lambda: "three" in page.one("#batch-files").text)
    page.settled()
    page.one("#batch-run").click()
    link = page.one("#batch-viewer a.vpd-link").get_attribute("href")
    assert "2 of 3 predicted" in page.one("#batch-viewer").text and "three" in page.one("#batch-viewer").text
    archive = zipfile.ZipFile(io.BytesIO(httpx.get(str(link)).content))
    names = {"one.png", "one.overlay.jpg", "two.png", "two.overlay.jpg", "predictions.jsonl"}
    assert set(archive.namelist()) == names
    lines = [json.loads(line) for line in archive.read("predictions.jsonl").decode().splitlines()]
    assert [line["source"] for line in lines] == ["one.png", "two.jpg"]


def test_pictures_of_a_closed_page_are_not_run(app: App) -> None:
    def counted(what: str) -> float:
        found = re.search(rf"^{what} (\S+)", httpx.get(f"{app.url}/metrics").text, re.MULTILINE)
        assert found
        return float(found[1])

    before, many, session = counted("vpd_group_pictures_sum"), 100, "closed"
    with httpx.Client(base_url=f"{app.url}/gradio_api", timeout=WAIT_S) as http:
        parts = [("files", (f"{number}.png", picture_bytes())) for number in range(many)]
        files = [
            {"path": path, "meta": {"_type": "gradio.FileData"}} for path in http.post("/upload", files=parts).json()
        ]
        config = httpx.get(f"{app.url}/config").json()
        button = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "batch-run")
        run = next(each["id"] for each in config["dependencies"] if [button, "click"] in each["targets"])
        asked = {"data": [files, "world-depth", "", "", ""], "fn_index": run, "session_hash": session}
        assert http.post("/queue/join", json=asked).status_code == 200
        with http.stream("GET", "/queue/data", params={"session_hash": session}) as stream:
            next(line for line in stream.iter_lines() if "1 of 100 done" in line)
    deadline = time.monotonic() + WAIT_S
    while counted("vpd_open_requests"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert counted("vpd_group_pictures_sum") - before < many


def test_the_browser_asks_nobody_else(app: App, page: Page) -> None:
    page.browser.get(f"{app.url}/docs")
    page.one(".swagger-ui .opblock")
    time.sleep(1)
    asked = set()
    for entry in page.browser.get_log("performance"):  # of all tests before
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    assert len(asked) > 20
    strange = [url for url in asked if not url.startswith((app.url, "data:", "blob:", "about:", "chrome:"))]
    assert strange == []


def test_the_service_asks_nobody_either(app: App, proxy: socket.socket) -> None:
    with pytest.raises(BlockingIOError):  # nobody waits to be let in
        proxy.accept()


def test_nothing_is_left_when_it_stops(app: App, temporary: Path) -> None:
    (folder,) = temporary.glob("vpd-app-*")
    assert folder.stat().st_mode & 0o077 == 0
    began = time.monotonic()
    assert app.stop() == 143
    assert time.monotonic() - began < 60  # though a browser looks at the page
    assert not folder.exists() and [path for path in temporary.rglob("*") if path.is_file()] == []
    assert "Traceback" not in "".join(app.said), "".join(app.said)[-3000:]
