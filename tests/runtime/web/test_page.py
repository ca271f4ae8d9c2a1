"""The page of the web view in a real browser: it shows the published panels, and every control works."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from runtime.demo.controls import Command, Controls, changed
from runtime.demo.status import Status
from runtime.web import View, serve_view
from tests.support.web_status import STATUS

CHROMEDRIVER = shutil.which("chromedriver")
WAIT_S = 8.0
TOKEN = "a-token-of-some-length"
PUBLISHED_PER_S = 25.0
# Must never be executed.
HOSTILE = '<img src="x" onerror="document.title=1">'

pytestmark = pytest.mark.skipif(
    CHROMEDRIVER is None or shutil.which("chromium") is None,
    reason="no Chromium here: apt-get install chromium chromium-driver",
)


class Demo:
    """A stand-in for the pipeline: publishes panels, and follows commands while `obeys`."""

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.status = STATUS
        self.commands: list[Command] = []
        self.obeys = True
        self.publishes = True
        self.view: View | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Demo:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(1.0 / PUBLISHED_PER_S):
            for command in self.controls.take():
                self.commands.append(command)
                if self.obeys:
                    self.status = followed(self.status, command)
            if self.view and self.publishes:
                frames = self.status.frames + 1
                self.status = replace(self.status, frames=frames, frame=f"sample:{frames}")
                self.view.publish(panel(frames), self.status)


def followed(status: Status, command: Command) -> Status:
    if command.action == "record":
        return replace(status, recording="clips/recording-1.mp4" if command.value == "on" else None)
    settings = changed(status.settings, command, len(status.maps), status.precisions)
    return replace(status, settings=settings, agreement=0.75 if settings.compare else None)


def panel(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A wide panel whose grey encodes its number; orange at the left end."""
    image = np.full((120, 480, 3), 40 + number * 7 % 200, np.uint8)
    image[:, :60] = (250, 140, 20)
    return image


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chromium(downloads: Path) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: WebDriver) -> Iterator[WebDriver]:
    """The browser with one empty page of desktop size."""
    resize(chromium, 1280, 800)
    chromium.get_log("browser")
    yield chromium
    chromium.get("about:blank")


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A demo with an open view, without a token."""
    controls = Controls()
    with serve_view("0", controls) as view, Demo(controls) as running:
        running.view = view
        yield running


def resize(browser: WebDriver, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_page(browser: WebDriver, demo: Demo) -> None:
    assert demo.view
    browser.get(demo.view.url)
    wait_for(lambda: text(browser, "connection") == "live" and value_of(browser, "level") == "0")


def wait_for(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def text(browser: WebDriver, name: str) -> str:
    return browser.find_element(By.ID, name).text


def shown(browser: WebDriver, name: str) -> bool:
    return browser.find_element(By.ID, name).is_displayed()


def value_of(browser: WebDriver, action: str) -> str | None:
    """The checked value of a group."""
    script = "return document.querySelector(`input[name=${arguments[0]}]:checked`)?.value ?? null"
    return browser.execute_script(script, action)


def choose(browser: WebDriver, action: str, value: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f'input[name="{action}"][value="{value}"]').click()


def pixel(browser: WebDriver, x: int, y: int) -> list[int]:
    # Read from a copy: reading would change how the browser stores the page's own canvas.
    script = """const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    copy.drawImage(document.getElementById("image"), -arguments[0], -arguments[1]);
    return [...copy.getImageData(0, 0, 1, 1).data];"""
    return browser.execute_script(script, x, y)


def errors(browser: WebDriver) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_the_image_is_the_panel_and_changes(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    seen = set()

    def changes() -> bool:
        seen.add(tuple(pixel(browser, 300, 60)))
        return len(seen) >= 4

    wait_for(changes)
    assert np.abs(np.array(pixel(browser, 20, 60)[:3]) - (250, 140, 20)).max() < 12
    assert browser.execute_script("return [image.width, image.height]") == [480, 120]
    assert errors(browser) == []


def test_figures_come_from_the_status(browser: WebDriver, demo: Demo) -> None:
    demo.status = replace(
        STATUS, dropped_frames=1234, true_label="dog", running_accuracy=0.8125, latency_ms=1.256, note="saved x.png"
    )
    open_page(browser, demo)
    assert text(browser, "engine") == "ai-edge-litert 2.3.0, int8, 1 thread"
    assert (text(browser, "class"), text(browser, "confidence")) == ("cat", "90.0%")
    rows = [row.text.split() for row in browser.find_elements(By.CSS_SELECTOR, "#top5 li")]
    assert rows == [["cat", "90.0%"], ["dog", "6.0%"], ["frog", "2.0%"], ["deer", "1.0%"], ["ship", "0.5%"]]
    assert text(browser, "truth").split() == ["wrong", "true", "label:", "dog"]
    assert text(browser, "dropped") == "1,234"
    assert text(browser, "accuracy") == "81.3%"
    assert (text(browser, "latency"), text(browser, "latency-p50"), text(browser, "latency-p90")) == (
        "1.26", "0.50", "0.70",
    )  # fmt: skip
    assert text(browser, "rate") == "100.0"
    assert text(browser, "note") == "saved x.png"
    assert not shown(browser, "agreement")
    assert "cat" in browser.title
    for chart in ("latency-chart", "rate-chart"):
        wait_for(lambda chart=chart: browser.find_element(By.CSS_SELECTOR, f"#{chart} .line").get_attribute("d"))
    demo.status = replace(demo.status, true_label="cat", top5=(("cat", 0.5), ("dog", 0.5)))
    wait_for(lambda: text(browser, "verdict") == "right")
    assert len([row for row in browser.find_elements(By.CSS_SELECTOR, "#top5 li") if row.is_displayed()]) == 2
    demo.status = replace(demo.status, top5=(), true_label=None, running_accuracy=None, latency_ms=float("nan"))
    wait_for(lambda: text(browser, "class") == "not finite")
    assert not shown(browser, "truth") and not shown(browser, "accuracy")
    assert text(browser, "latency") == "\N{EN DASH}"
    assert errors(browser) == []


def test_a_chart_is_to_scale_and_names_its_peak(browser: WebDriver, demo: Demo) -> None:
    demo.status = replace(STATUS, latency_ms=2.0, latency_p50_ms=2.0, latency_p90_ms=4.2)
    open_page(browser, demo)
    chart = browser.find_element(By.CSS_SELECTOR, "#latency-chart")
    label = chart.find_element(By.XPATH, "following-sibling::span")
    wait_for(lambda: label.text == "5 ms")
    # 96 units high, 14 of them for the label: 2 of 5 ms are 32.8 above the bottom.
    assert chart.find_element(By.CSS_SELECTOR, ".line").get_attribute("d").endswith(" 63.2")
    assert chart.find_element(By.CSS_SELECTOR, ".p90").get_attribute("d") == "M0 27.1H320"
    wait_for(lambda: chart.find_element(By.CSS_SELECTOR, ".line").get_attribute("d").count("L") > 24)
    demo.publishes = False
    assert demo.view
    demo.view.publish(panel(1), replace(demo.status, latency_ms=80.0))
    wait_for(lambda: label.text == "5 ms, peak 80.0 ms")
    limits = browser.execute_async_script(
        "import('./chart.js').then(({ niceLimit }) => arguments[1](arguments[0].map(niceLimit)))",
        [0, 0.07, 0.5, 1, 1.01, 14.9, 150.1, 701, -1],
    )
    assert limits == [1, 0.07, 0.5, 1, 1.5, 15, 200, 1000, 1]


def test_text_is_never_markup(browser: WebDriver, demo: Demo) -> None:
    demo.status = replace(
        STATUS, top5=((HOSTILE, 0.9),), true_label=HOSTILE, note=HOSTILE, engine=HOSTILE, recording=HOSTILE,
        maps=(HOSTILE, "b"), precisions=("int8", HOSTILE),
    )  # fmt: skip
    open_page(browser, demo)
    assert text(browser, "class") == HOSTILE
    assert text(browser, "note") == HOSTILE
    assert len(browser.find_elements(By.CSS_SELECTOR, 'img:not([src="icon.svg"])')) == 0
    assert errors(browser) == []


@pytest.mark.parametrize(
    ("action", "value", "now"),
    [
        ("level", "3", {"level": "3", "layout": "single"}),
        ("layout", "blend", {"layout": "blend", "level": "1"}),
        ("precision", "float32", {"precision": "float32"}),
    ],
)
def test_choices(browser: WebDriver, demo: Demo, action: str, value: str, now: dict[str, str]) -> None:
    open_page(browser, demo)
    choose(browser, action, value)
    wait_for(lambda: all(value_of(browser, each) == expected for each, expected in now.items()))
    wait_for(lambda: demo.commands == [Command(action, value)])  # type: ignore[arg-type]
    if action == "precision":
        wait_for(lambda: "float32" in text(browser, "engine"))
    assert errors(browser) == []


def test_compare_and_its_agreement(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    switch = browser.find_element(By.ID, "compare")
    switch.click()
    wait_for(lambda: shown(browser, "agreement"))
    assert text(browser, "agreement") == "75.0%"
    assert "float32 and int8" in text(browser, "engine")
    assert switch.is_selected()
    switch.click()
    wait_for(lambda: not shown(browser, "agreement"))
    assert demo.commands == [Command("compare", "on"), Command("compare", "off")]


def test_compare_needs_two_artifacts(browser: WebDriver, demo: Demo) -> None:
    demo.status = replace(STATUS, precisions=("int8",))
    open_page(browser, demo)
    assert not browser.find_element(By.ID, "compare").is_enabled()
    browser.find_element(By.TAG_NAME, "body").send_keys("c")
    time.sleep(0.2)
    assert demo.commands == []


def test_record(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    button = browser.find_element(By.ID, "record")
    assert not shown(browser, "recording")
    button.click()
    wait_for(lambda: shown(browser, "recording"))
    # The folder on the device is not shown.
    assert text(browser, "recording") == "REC recording-1.mp4"
    assert button.accessible_name == "Stop recording"
    button.click()
    wait_for(lambda: not shown(browser, "recording"))
    assert demo.commands == [Command("record", "on"), Command("record", "off")]


def test_keys_match_the_window(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    body = browser.find_element(By.TAG_NAME, "body")
    for key in ("2", "l", "p", "c", "r"):
        body.send_keys(key)
    expected = [
        Command("level", "2"), Command("layout"), Command("precision"), Command("compare"), Command("record", "on"),
    ]  # fmt: skip
    wait_for(lambda: demo.commands == expected)
    body.send_keys("9")
    body.send_keys(Keys.CONTROL, "p", Keys.NULL)
    browser.find_element(By.TAG_NAME, "summary").click()
    browser.find_element(By.ID, "shortcuts").click()
    body.send_keys("l")
    time.sleep(0.2)
    assert demo.commands == expected


def test_arrow_keys_move_through_a_group(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    browser.find_element(By.CSS_SELECTOR, 'input[name="layout"]:checked').send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: demo.commands == [Command("layout", "single")])
    wait_for(lambda: value_of(browser, "level") == "1")


def test_a_control_follows_the_status_and_not_the_click(browser: WebDriver, demo: Demo) -> None:
    demo.obeys = False
    open_page(browser, demo)
    choose(browser, "layout", "blend")
    wait_for(lambda: demo.commands == [Command("layout", "blend")])
    wait_for(lambda: value_of(browser, "layout") == "grid")
    # Another viewer changes it.
    demo.status = replace(demo.status, settings=replace(demo.status.settings, level=2, layout="single"))
    wait_for(lambda: (value_of(browser, "level"), value_of(browser, "layout")) == ("2", "single"))


def test_a_refused_command_is_shown(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    browser.execute_script('document.querySelector("input[name=level][value=\\"3\\"]").value = "77"')
    choose(browser, "level", "77")
    wait_for(lambda: shown(browser, "error"))
    assert "received '77'; expected one of 0, 1, 2, 3, 4" in text(browser, "error")
    assert demo.commands == []


def test_snapshot_is_the_image(browser: WebDriver, demo: Demo, downloads: Path) -> None:
    open_page(browser, demo)
    browser.find_element(By.ID, "snapshot").click()
    wait_for(lambda: list(downloads.glob("focaledge-sample-*.jpg")))
    (path,) = downloads.glob("focaledge-sample-*.jpg")
    image = cv2.imread(str(path))
    assert image is not None
    number = int(path.stem.rpartition("-")[2])
    difference = np.abs(image[..., ::-1].astype(int) - panel(number))
    assert difference[:, 80:].max() < 8 and difference[:, :50].max() < 12
    assert demo.commands == []
    assert errors(browser) == []


def test_the_page_reconnects(browser: WebDriver) -> None:
    controls = Controls()
    with Demo(controls) as demo, ExitStack() as stack:
        demo.view = view = stack.enter_context(serve_view("0", controls))
        address = str(urlsplit(view.url).port)
        open_page(browser, demo)
        demo.view = None
        stack.close()
        wait_for(lambda: "reconnecting" in text(browser, "connection"))
        choose(browser, "layout", "blend")
        assert "not connected" in text(browser, "error")
        with serve_view(address, controls) as again:
            demo.view = again
            wait_for(lambda: text(browser, "connection") == "live")
            before = demo.status.frames
            wait_for(lambda: int(text(browser, "frames")) > before)
            demo.view = None


def test_a_missing_frame_is_shown(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    demo.publishes = False
    wait_for(lambda: text(browser, "connection") == "no new frame")
    demo.publishes = True
    wait_for(lambda: text(browser, "connection") == "live")


def test_token_is_requested_and_then_hidden(browser: WebDriver) -> None:
    controls = Controls()
    with serve_view("0", controls, token=TOKEN) as view, Demo(controls) as demo:
        demo.view = view
        bare = view.url.partition("?")[0]
        browser.get(bare)
        browser.find_element(By.ID, "token").send_keys("wrong" + Keys.ENTER)
        wait_for(lambda: "wrong" in browser.current_url)
        browser.get_log("browser")
        browser.find_element(By.ID, "token").send_keys(TOKEN + Keys.ENTER)
        wait_for(lambda: browser.find_elements(By.ID, "image") and text(browser, "connection") == "live")
        assert browser.current_url == bare
        assert TOKEN not in browser.execute_script("return document.cookie")
        browser.get(bare)
        wait_for(lambda: text(browser, "connection") == "live")
        assert errors(browser) == []


def test_every_control_has_a_name_and_the_class_is_announced(browser: WebDriver, demo: Demo) -> None:
    open_page(browser, demo)
    browser.find_element(By.TAG_NAME, "summary").click()
    controls = browser.find_elements(By.CSS_SELECTOR, "button, input, summary, [role=img], [role=group]")
    assert len(controls) > 15
    assert [each.get_attribute("outerHTML") for each in controls if not each.accessible_name] == []
    region = browser.find_element(By.CSS_SELECTOR, '[aria-live="polite"]')
    wait_for(lambda: region.get_attribute("textContent") == "cat 90.0%")
    # A flicker is not announced.
    browser.execute_script(
        "window.heard = []; new MutationObserver(() => heard.push(arguments[0].textContent))"
        ".observe(arguments[0], { childList: true })",
        region,
    )
    demo.status = replace(demo.status, top5=(("frog", 0.5),))
    wait_for(lambda: text(browser, "class") == "frog")
    demo.status = replace(demo.status, top5=(("cat", 0.9),))
    wait_for(lambda: text(browser, "class") == "cat")
    assert browser.execute_script("return heard") == []


@pytest.mark.parametrize("width", [360, 390, 800])
def test_fits_a_phone(browser: WebDriver, demo: Demo, width: int) -> None:
    resize(browser, width, 800)
    demo.status = replace(STATUS, frame="a-folder-with-a-long-name/" * 6 + "x.png", top5=(("n" * 60, 0.9),))
    open_page(browser, demo)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('button')].map((each) => each.getBoundingClientRect().height)"
    )
    assert min(sizes) >= (44 if width < 640 else 36)
