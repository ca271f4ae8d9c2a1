"""The canvas of panels: colours, text that stays in its place, and fitted images."""

from __future__ import annotations

import cv2
import numpy as np

from runtime.core.text import printable
from runtime.images.preprocess import Image

Colour = tuple[int, int, int]

BACKGROUND: Colour = (20, 23, 28)
BRIGHT: Colour = (240, 243, 246)
DIM: Colour = (151, 160, 171)
TRACK: Colour = (45, 51, 60)
ACCENT: Colour = (88, 166, 255)
# Height of capitals in OpenCV's fonts at scale 1.
CAPITAL_HEIGHT_PX = 21.0
MAX_TEXT_SHRINK = 0.7
# Less than the narrowest character of OpenCV's fonts at scale 1, rounding included.
NARROWEST_PX = 4.0
CUT_MARK = ".."


def blank(height: int, width: int) -> Image:
    """Return a canvas in the background colour, uint8 `[height, width, 3]`."""
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    # np.full takes ten times as long with a colour.
    cv2.rectangle(canvas, (0, 0), (width, height), BACKGROUND, cv2.FILLED)
    return canvas


def fit(image: Image, height: int, width: int) -> Image:
    """Resize an image fast and without aliasing.

    Args:
        image: uint8 `[H, W, 3]`, not empty.
        height: height of the result, in pixels.
        width: width of the result, in pixels.

    Returns:
        uint8 `[height, width, 3]`.
    """
    if image.shape[:2] == (height, width):
        return image
    # Average over whole pixels first: OpenCV does that five times as fast as over parts of pixels.
    factor = min(image.shape[0] // height, image.shape[1] // width)
    if factor > 1:
        rows, columns = image.shape[0] // factor, image.shape[1] // factor
        whole = image[: rows * factor, : columns * factor]
        image = np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def letterbox(image: Image, height: int, width: int) -> Image:
    """Fit an image into `[height, width, 3]` on the background, without distortion."""
    if image.shape[:2] == (height, width):
        return image
    top, left, rows, columns = letterbox_place(image.shape[0], image.shape[1], height, width)
    canvas = blank(height, width)
    canvas[top : top + rows, left : left + columns] = fit(image, rows, columns)
    return canvas


def letterbox_place(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the place of a letterboxed `rows` by `columns` image: top, left, height and width, in pixels."""
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
    """Write a line of text; shrink it, and then cut it, until it fits. What cannot be drawn is escaped.

    Args:
        canvas: uint8 `[h, w, 3]`, modified in place.
        text: the line.
        anchor: x and y on the baseline, in pixels.
        height_px: height of the capitals.
        colour: red, green and blue, 0 to 255.
        room_px: the maximum width.
        align: the part of the line at `anchor`: "left", "centre" or "right".
        bold: use the bold font.

    Returns:
        The width of the written text, in pixels.
    """
    font = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
    scale = height_px / CAPITAL_HEIGHT_PX
    text = _shortened(printable(text), max(room_px, 0) / (NARROWEST_PX * scale * MAX_TEXT_SHRINK))
    width_px = _text_width(text, font, scale)
    if width_px > max(room_px, 0):
        scale *= max(MAX_TEXT_SHRINK, room_px / width_px)
        text, width_px = _cut(text, font, scale, room_px)
    if not text:
        return 0
    x = anchor[0] - {"left": 0, "centre": width_px // 2, "right": width_px}[align]
    cv2.putText(canvas, text, (x, anchor[1]), font, scale, colour, 1, cv2.LINE_AA)
    return width_px


def _shortened(text: str, longest: float) -> str:
    """Cut a text to the characters that could fit, before it is measured: that takes time for each of them."""
    return text if len(text) <= longest else text[: int(longest) + 1] + CUT_MARK


def _cut(text: str, font: int, scale: float, room_px: int) -> tuple[str, int]:
    """Return the part of a text that fits, marked as cut, and its width; halve what is left to try each time."""
    width_px = _text_width(text, font, scale)
    if width_px <= room_px:
        return text, width_px
    whole, fitting = text.removesuffix(CUT_MARK), ("", 0)
    least, most = 1, len(whole) - 1
    while least <= most:
        middle = (least + most) // 2
        part = whole[:middle].rstrip() + CUT_MARK
        width_px = _text_width(part, font, scale)
        if width_px <= room_px:
            fitting, least = (part, width_px), middle + 1
        else:
            most = middle - 1
    return fitting


def _text_width(text: str, font: int, scale: float) -> int:
    return int(cv2.getTextSize(text, font, scale, 1)[0][0]) if text else 0
