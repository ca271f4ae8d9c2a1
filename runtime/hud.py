"""The strip under a panel: what runs, how fast, and how well; from a `Status` alone."""

from __future__ import annotations

import numpy as np

from runtime.canvas import BRIGHT, DIM, Colour, blank, write_text
from runtime.controls import Status
from runtime.preprocess import Image

HEIGHT_PX = 46
MARGIN_PX = 14
TEXT_PX = 9.5
BASELINES_PX = (16, 35)
# Red, as every camera's; the word says it too.
RECORDING: Colour = (255, 110, 100)


def with_hud(panel: Image, status: Status) -> Image:
    """Return a panel with the strip under it.

    Args:
        panel: uint8 `[h, w, 3]` RGB, h even.
        status: what to tell.

    Returns:
        uint8 `[h + 46, w, 3]` RGB.
    """
    strip = blank(HEIGHT_PX, panel.shape[1])
    (engine, speed), (note, quality) = hud_lines(status)
    _write_line(strip, BASELINES_PX[0], (engine, DIM), (speed, BRIGHT))
    _write_line(strip, BASELINES_PX[1], (note, BRIGHT), (quality, RECORDING if status.recording else DIM))
    return np.concatenate([panel, strip])


def hud_lines(status: Status) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the strip's two lines, each by what stands left and right in it."""
    settings = status.settings
    precision = " | ".join(status.precisions) if settings.compare else settings.precision
    threads = "1 thread" if status.threads == 1 else f"{status.threads} threads"
    speed = (
        f"{settings.precision} {status.latency_ms:.2f} ms (p50 {status.latency_p50_ms:.2f}, "
        f"p90 {status.latency_p90_ms:.2f})   {status.frames_per_s:.0f} frames/s   dropped {status.dropped_frames}"
    )
    quality = []
    if status.running_accuracy is not None:
        quality.append(f"right {status.running_accuracy:.1%}")
    if status.agreement is not None:
        quality.append(f"agree {status.agreement:.1%}")
    if status.recording:
        quality.append(f"REC {status.recording}")
    return (f"{precision}   {status.engine}   {threads}", speed), (status.note, "   ".join(quality))


def _write_line(strip: Image, baseline: int, left: tuple[str, Colour], right: tuple[str, Colour]) -> None:
    room = strip.shape[1] - 2 * MARGIN_PX
    # What is on the right changes with every frame and is short: it comes first.
    place = (strip.shape[1] - MARGIN_PX, baseline)
    used = write_text(strip, right[0], place, TEXT_PX, right[1], room, align="right")
    write_text(strip, left[0], (MARGIN_PX, baseline), TEXT_PX, left[1], room - used - MARGIN_PX)
