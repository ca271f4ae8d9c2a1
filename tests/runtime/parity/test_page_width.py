"""report.html in a real browser: at the width of a phone, a laptop and a desktop nothing is cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from runtime.parity.report.html import render_report
from runtime.parity.report.panels import ImagePanel
from tests.support.paths import SHIPPED

CHROMEDRIVER = shutil.which("chromedriver")
# Elements beyond the edge of the page, and texts beyond the edge of their element.
CUT = """
const width = document.documentElement.clientWidth, found = [];
if (document.documentElement.scrollWidth > width) found.push(`the page: ${document.documentElement.scrollWidth}`);
for (const each of document.querySelectorAll("h1, h2, p, figcaption, img, svg[role], table, th, td, code, summary")) {
  const place = each.getBoundingClientRect();
  if (place.left < -1 || place.right > width + 1 || each.scrollWidth > Math.ceil(place.width) + 1)
    found.push(`${each.tagName} at ${place.left}..${place.right}: ${each.textContent.slice(0, 60)}`);
}
return found;
"""

pytestmark = pytest.mark.skipif(
    CHROMEDRIVER is None or shutil.which("chromium") is None,
    reason="no Chromium here: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with long names, and with every table open."""
    report: dict[str, Any] = json.loads((SHIPPED / "report.json").read_text())
    long = "a_file_name_without_a_space/" * 5
    report["disagreements"][0]["id"] = report["artifacts"]["candidate"]["file"] = long
    report["classes"]["list"][0]["label"] = "a class with a name of several words"
    report["artifacts"]["candidate"]["name"] = "edge-small-cifar10/int8.tflite"
    encoded = cv2.imencode(".jpg", np.zeros((300, 1000, 3), np.uint8))[1].tobytes()
    panels = [ImagePanel(long, "lowest similarity: modulator", "ship", encoded, encoded)]
    text = render_report(report, {"map_similarity": panels, "disagreements": panels})
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text.replace("<details>", "<details open>"), encoding="utf-8")
    return path


@pytest.mark.parametrize("width_px", [390, 768, 1000, 1280, 1920])
def test_nothing_is_cut(browser: WebDriver, page: Path, width_px: int) -> None:
    metrics = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[attr-defined]
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.clientWidth") == width_px
    assert browser.execute_script(CUT) == []


def test_a_cut_table_would_be_found(browser: WebDriver, tmp_path: Path) -> None:
    path = tmp_path / "wide.html"
    path.write_text(f"<table><tr><td>{'x' * 999}</td></tr></table>")
    browser.get(path.as_uri())
    assert browser.execute_script(CUT) != []
