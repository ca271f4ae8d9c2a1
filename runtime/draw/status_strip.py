"""The strip of two text lines under a panel."""

from __future__ import annotations

import numpy as np

from runtime.draw.canvas import BRIGHT, DIM, Colour, blank, write_text
from runtime.images.preprocess import Image

HEIGHT_PX = 46
MARGIN_PX = 14
TEXT_PX = 9.5
BASELINES_PX = (16, 35)
# Red, as on every camera; the word REC says it too.
RECORDING: Colour = (255, 110, 100)
COLOURS = ((DIM, BRIGHT), (BRIGHT, DIM, RECORDING))

# What runs and how fast; note, quality and recording.
StripLines = tuple[tuple[str, str], tuple[str, str, str]]


def with_status_strip(panel: Image, lines: StripLines) -> Image:
    """Return a panel with the strip under it.

    Args:
        panel: uint8 `[h, w, 3]` RGB, h even.
        lines: the parts of both lines; the first part of each stands at the left, the others at the right.

    Returns:
        uint8 `[h + 46, w, 3]` RGB.
    """
    strip = blank(HEIGHT_PX, panel.shape[1])
    for baseline, parts, colours in zip(BASELINES_PX, lines, COLOURS, strict=True):
        _write_line(strip, baseline, tuple(zip(parts, colours, strict=True)))
    return np.concatenate([panel, strip])


def _write_line(strip: Image, baseline: int, parts: tuple[tuple[str, Colour], ...]) -> None:
    right = strip.shape[1] - MARGIN_PX
    # The parts at the right change with every frame and are short: they get their room first.
    for text, colour in reversed(parts[1:]):
        used = write_text(strip, text, (right, baseline), TEXT_PX, colour, right - MARGIN_PX, align="right")
        right -= used + MARGIN_PX if used else 0
    text, colour = parts[0]
    write_text(strip, text, (MARGIN_PX, baseline), TEXT_PX, colour, right - MARGIN_PX)
