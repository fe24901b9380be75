"""Pages in a browser: no request, sliders and words by pointer and keyboard, phone, print, and without a script."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
from made import page

from vpd.pages.page import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the extra `test-extras`)")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
)
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its chromedriver"),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in QUIET.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path: Path):
    """The page, freshly loaded in a window of a desk."""
    look(browser, 1280, 800)
    path = tmp_path / "page.html"
    write_page(path, page())
    browser.get(path.as_uri())
    return browser


def look(browser, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def shown(browser, tile: int) -> str:
    """How much of a tile's own picture is to be seen."""
    picture = browser.find_elements(By.CSS_SELECTOR, ".over .under + img")[tile]
    return picture.value_of_css_property("clip-path")


def test_nothing_is_asked_of_any_network(opened):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {opened.current_url}
    assert opened.get_log("browser") == []  # the policy lets its own style and script be, and no error came


def test_slider_moves_the_answer_over_the_picture(opened):
    slider = opened.find_element(By.CSS_SELECTOR, ".slider input")
    before = shown(opened, 0)
    slider.send_keys(*[Keys.ARROW_LEFT] * 30)
    assert slider.get_attribute("value") == "70" and slider.get_attribute("aria-valuetext") == "70 % covered"
    assert shown(opened, 0) == shown(opened, 1) != before
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("value") == "0"


def test_slider_follows_the_pointer_on_the_picture(opened):
    frame = opened.find_elements(By.CSS_SELECTOR, ".over .frame")[1]
    ActionChains(opened).move_to_element(frame).click_and_hold().move_by_offset(-frame.size["width"] // 4, 0).perform()
    value = int(opened.find_element(By.CSS_SELECTOR, ".slider input").get_attribute("value"))
    ActionChains(opened).release().perform()
    assert 20 <= value <= 30


def test_words_show_their_maps(opened):
    picture = opened.find_element(By.CSS_SELECTOR, ".input img")
    label = opened.find_element(By.CSS_SELECTOR, ".input .label")
    maps = opened.find_elements(By.CSS_SELECTOR, ".map")
    sources = [one.find_element(By.TAG_NAME, "img").get_attribute("src") for one in maps]
    own = picture.get_attribute("src")
    assert own == sources[0] and len(set(sources)) == 3
    ActionChains(opened).move_to_element(maps[1]).perform()
    assert picture.get_attribute("src") == sources[1] and label.text == "“red”"
    ActionChains(opened).move_to_element(opened.find_element(By.TAG_NAME, "h1")).perform()
    assert picture.get_attribute("src") == own and label.text == "Input"
    maps[2].click()
    ActionChains(opened).move_to_element(opened.find_element(By.TAG_NAME, "h1")).perform()
    assert picture.get_attribute("src") == sources[2] and picture.get_attribute("alt") == "cube: all purple"
    maps[2].find_element(By.TAG_NAME, "input").send_keys(Keys.ARROW_LEFT)
    assert picture.get_attribute("src") == sources[1]


def test_keyboard_reaches_everything_in_order(opened):
    reached = []
    for _ in range(7):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        element = opened.switch_to.active_element
        reached.append(element.get_attribute("type") or element.tag_name)
    assert reached == ["a", "a", "a", "range", "radio", "pre", "body"]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    look(opened, width, 740)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_where_that_is_wanted(opened):
    def ground() -> str:
        return opened.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")

    light = ground()
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    assert ground() != light
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    assert ground() == light  # paper is white
    assert not opened.find_element(By.CSS_SELECTOR, ".slider").is_displayed()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 2000


def test_everything_is_there_without_a_script(opened):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    opened.refresh()
    answer = opened.find_element(By.CSS_SELECTOR, ".over img")
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert answer.is_displayed() and answer.value_of_css_property("clip-path") == "none"
