"""From an image file to its pixels, or the reason why it has none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from runtime.core.errors import DataError
from runtime.images.preprocess import Image, bgr_to_rgb

JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"


def read_content(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        DataError: there is no such file, it is not a plain one, or it cannot be read.
    """
    if not path.is_file():
        raise DataError("no such file, or not a plain one")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error


def decode(content: bytes) -> Image:
    """Decode the content of an image file.

    Args:
        content: a JPEG, PNG or WebP.

    Returns:
        uint8 `[H, W, 3]` RGB.

    Raises:
        DataError: it is none of these, damaged or cut short.
    """
    # The decoder fills the missing part of a JPEG with grey and calls that a success.
    if content.startswith(JPEG_START) and _is_cut_short(content):
        raise DataError("cut short")
    try:
        frame = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as error:
        raise DataError("cannot be decoded as an image") from error
    if frame is None:
        raise DataError("cannot be decoded as an image")
    return bgr_to_rgb(np.asarray(frame, dtype=np.uint8))


def _is_cut_short(jpeg: bytes) -> bool:
    """Say whether no end marker follows the image's own data; that of an embedded thumbnail is not its."""
    position = len(JPEG_START)
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        if jpeg[position : position + 2] == JPEG_SCAN:
            return jpeg.find(JPEG_END, position) < 0
        if jpeg[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        # A segment before the scan is a marker and its length, which counts itself but not the marker.
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return False  # no scan at all, which the decoder notices
