"""The status strip shows a status, whatever the length of its texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.demo.controls import Settings
from runtime.draw.status_strip import HEIGHT_PX, with_status_strip
from tests.support.web_status import STATUS

STATUS = replace(STATUS, dropped_frames=3, latency_ms=0.456, latency_p50_ms=0.4, latency_p90_ms=0.5, frames_per_s=29.6)


def test_strip_shows_engine_and_speed() -> None:
    (engine, speed), (note, quality, recording) = STATUS.strip_lines()
    assert engine == "int8   ai-edge-litert 2.3.0   1 thread"
    assert speed == "int8 0.46 ms (p50 0.40, p90 0.50)   30 frames/s   dropped 3"
    assert (note, quality, recording) == ("", "", "")


def test_strip_shows_quality_and_recording() -> None:
    status = replace(
        STATUS,
        threads=4,
        settings=Settings(compare=True, precision="float32"),
        running_accuracy=0.8934,
        agreement=0.99,
        recording="recording-20260101-000000.mp4",
        note="saved",
    )
    (engine, speed), second = status.strip_lines()
    assert engine.startswith("float32 | int8   ") and engine.endswith("4 threads")
    assert speed.startswith("float32 0.46 ms")
    assert second == ("saved", "right 89.3%   agree 99.0%", "REC recording-20260101-000000.mp4")


@pytest.mark.parametrize("width", [60, 300, 1204])
@pytest.mark.parametrize("note", ["", "a long note " * 40])
def test_the_panel_above_the_strip_is_unchanged(width: int, note: str) -> None:
    panel = np.full((40, width, 3), 200, np.uint8)
    shown = with_status_strip(panel, replace(STATUS, note=note, recording="x.mp4").strip_lines())
    assert shown.shape == (40 + HEIGHT_PX, width, 3)
    np.testing.assert_array_equal(shown[:40], panel)
    assert shown[40:].std() > 1
