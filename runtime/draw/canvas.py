"""What panels are drawn with: the colours, text that stays in its place, and images fitted into one."""

from __future__ import annotations

import cv2
import numpy as np

from runtime.images.preprocess import Image

Colour = tuple[int, int, int]

BACKGROUND: Colour = (20, 23, 28)
BRIGHT: Colour = (240, 243, 246)
DIM: Colour = (151, 160, 171)
TRACK: Colour = (45, 51, 60)
ACCENT: Colour = (88, 166, 255)
# OpenCV's faces have capitals about this tall at scale 1.
CAPITAL_HEIGHT_PX = 21.0
MAX_TEXT_SHRINK = 0.7


def blank(height: int, width: int) -> Image:
    """Return uint8 `[height, width, 3]` in the background's colour."""
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    # np.full with a colour takes ten times as long.
    cv2.rectangle(canvas, (0, 0), (width, height), BACKGROUND, cv2.FILLED)
    return canvas


def fit(image: Image, height: int, width: int) -> Image:
    """Resize an image fast, without fine texture becoming false patterns.

    Args:
        image: uint8 `[H, W, 3]`, not empty.
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        uint8 `[height, width, 3]`.
    """
    if image.shape[:2] == (height, width):
        return image
    # Averages over whole pixels first, which OpenCV does five times as fast as over parts of pixels.
    factor = min(image.shape[0] // height, image.shape[1] // width)
    if factor > 1:
        rows, columns = image.shape[0] // factor, image.shape[1] // factor
        whole = image[: rows * factor, : columns * factor]
        image = np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def letterbox(image: Image, height: int, width: int) -> Image:
    """Fit an image into `[height, width, 3]` without distorting it, on the panel's background."""
    if image.shape[:2] == (height, width):
        return image
    top, left, rows, columns = letterbox_place(image.shape[0], image.shape[1], height, width)
    canvas = blank(height, width)
    canvas[top : top + rows, left : left + columns] = fit(image, rows, columns)
    return canvas


def letterbox_place(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return where `letterbox` puts an image of `rows` by `columns`: top, left, height and width, in pixels."""
    scale = min(height / rows, width / columns)
    fitted = (max(1, round(rows * scale)), max(1, round(columns * scale)))
    return (height - fitted[0]) // 2, (width - fitted[1]) // 2, *fitted


def write_text(
    canvas: Image,
    text: str,
    anchor: tuple[int, int],
    height_px: float,
    colour: Colour,
    room_px: int,
    *,
    align: str = "left",
    bold: bool = False,
) -> int:
    """Write a line, smaller and then cut where it would not fit.

    Args:
        canvas: uint8 `[h, w, 3]`, written on.
        text: the line.
        anchor: x and y of its baseline, in pixels.
        height_px: of its capitals.
        colour: red, green and blue.
        room_px: the most it may take.
        align: what of the line is at `anchor`: its "left", "centre" or "right".
        bold: whether in the heavier face.

    Returns:
        The width it takes, in pixels.
    """
    face = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
    scale = height_px / CAPITAL_HEIGHT_PX
    width_px = _text_width(text, face, scale)
    if width_px > max(room_px, 0):
        scale *= max(MAX_TEXT_SHRINK, room_px / width_px)
        text, width_px = _cut(text, face, scale, room_px)
    if not text:
        return 0
    x = anchor[0] - {"left": 0, "centre": width_px // 2, "right": width_px}[align]
    cv2.putText(canvas, text, (x, anchor[1]), face, scale, colour, 1, cv2.LINE_AA)
    return width_px


def _cut(text: str, face: int, scale: float, room_px: int) -> tuple[str, int]:
    """Return what of a text fits, marked as cut, and its width."""
    width_px = _text_width(text, face, scale)
    while text and width_px > room_px:
        text = text.removesuffix("..")[:-1].rstrip() + ".." if len(text) > 3 else ""
        width_px = _text_width(text, face, scale)
    return text, width_px


def _text_width(text: str, face: int, scale: float) -> int:
    return int(cv2.getTextSize(text, face, scale, 1)[0][0]) if text else 0
