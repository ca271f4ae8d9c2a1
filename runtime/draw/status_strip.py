"""The strip under a panel: what runs, how fast, and how well; from a `Status` alone."""

from __future__ import annotations

import numpy as np

from runtime.demo.controls import Status
from runtime.draw.canvas import BRIGHT, DIM, Colour, blank, write_text
from runtime.images.preprocess import Image

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
    (engine, speed), (note, quality, recording) = hud_lines(status)
    _write_line(strip, BASELINES_PX[0], ((engine, DIM), (speed, BRIGHT)))
    _write_line(strip, BASELINES_PX[1], ((note, BRIGHT), (quality, DIM), (recording, RECORDING)))
    return np.concatenate([panel, strip])


def hud_lines(status: Status) -> tuple[tuple[str, str], tuple[str, str, str]]:
    """Return the strip's two lines, each by its parts: the first stands left, the others right."""
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
    recording = f"REC {status.recording}" if status.recording else ""
    return (f"{precision}   {status.engine}   {threads}", speed), (status.note, "   ".join(quality), recording)


def _write_line(strip: Image, baseline: int, parts: tuple[tuple[str, Colour], ...]) -> None:
    right = strip.shape[1] - MARGIN_PX
    # What stands on the right changes with every frame and is short: it comes first.
    for text, colour in reversed(parts[1:]):
        used = write_text(strip, text, (right, baseline), TEXT_PX, colour, right - MARGIN_PX, align="right")
        right -= used + MARGIN_PX if used else 0
    text, colour = parts[0]
    write_text(strip, text, (MARGIN_PX, baseline), TEXT_PX, colour, right - MARGIN_PX)
