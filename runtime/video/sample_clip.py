"""The built-in sample clip: coloured shapes that cross a cluttered table, the same on every run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.images.preprocess import Image

WIDTH_PX = 320
HEIGHT_PX = 240
FRAMES_PER_SHAPE = 30
RADIUS_PX = 58
CLUTTER_COUNT = 60
NOISE_SIGMA = 3.0
# Corners, radius of every second corner as a share, colour.
SHAPES = (
    (64, 1.0, (214, 62, 52)),
    (10, 0.42, (240, 190, 40)),
    (3, 1.0, (52, 168, 96)),
    (4, 1.0, (64, 110, 220)),
)


def sample_frames() -> Iterator[Image]:
    """Render 120 frames: a circle, a star, a triangle and a square, 30 frames each, one at a time.

    Yields:
        uint8 `[240, 320, 3]` RGB; the same on every call.
    """
    rng = np.random.default_rng(0)
    background = _background(rng)
    for corners, inset, colour in SHAPES:
        for step in range(FRAMES_PER_SHAPE):
            position = step / (FRAMES_PER_SHAPE - 1)
            frame = background.copy()
            _draw_shape(frame, _outline(corners, inset, position), colour)
            noisy = frame + rng.normal(0.0, NOISE_SIGMA, frame.shape)
            yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _outline(corners: int, inset: float, position: float) -> NDArray[np.float64]:
    """Return the `[corners, 2]` outline of a shape at `position` (0..1) of its way, in pixels."""
    angles = 2 * np.pi * (np.arange(corners) / corners + 0.15 * np.sin(2 * np.pi * position)) - np.pi / 2
    radii = RADIUS_PX * np.where(np.arange(corners) % 2, inset, 1.0)
    centre_x = WIDTH_PX * (0.34 + 0.32 * position)
    centre_y = HEIGHT_PX * (0.5 + 0.1 * np.sin(2 * np.pi * position))
    return np.stack([centre_x + radii * np.cos(angles), centre_y + radii * np.sin(angles)], axis=-1)


def _draw_shape(frame: Image, outline: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    shadow = tuple(channel // 3 for channel in colour)
    _fill(frame, outline + 4.0, shadow)
    _fill(frame, outline, colour)


def _background(rng: np.random.Generator) -> Image:
    coarse = (rng.uniform(35, 75, (4, 5, 1)) + rng.uniform(-14, 14, (4, 5, 3))).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    canvas = np.clip(smooth, 0, 255).astype(np.uint8)
    for _ in range(CLUTTER_COUNT):
        centre = rng.uniform((0, 0), (WIDTH_PX, HEIGHT_PX))
        outline = centre + rng.uniform(-16, 16, (4, 2))
        grey = rng.uniform(25, 115)
        _fill(canvas, outline, tuple(int(grey + tint) for tint in rng.uniform(-18, 18, 3)))
    return canvas


def _fill(canvas: Image, outline: NDArray[np.float64], colour: tuple[Any, ...]) -> None:
    # 4 fractional bits: shapes glide instead of jumping from pixel to pixel.
    points = np.rint(outline * 16).astype(np.int32)
    cv2.fillPoly(canvas, [points], colour, cv2.LINE_AA, 4)
