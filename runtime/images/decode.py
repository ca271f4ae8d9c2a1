"""The one decoder: from the content of an image file to its pixels, or the reason why it has none."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from runtime.core.errors import ConfigError, DataError
from runtime.images.formats import CUT_SHORT, JPEG_END, Header, read_header
from runtime.images.preprocess import Image, bgr_to_rgb

# Earlier versions cannot read two of these, and end the process on some files of the third.
NEEDS_OPENCV_5 = ("AVIF", "GIF", "JPEG 2000")
MAX_PIXELS = 64_000_000
MAX_PIXELS_VARIABLE = "FOCALEDGE_MAX_PIXELS"
# Continues a JPEG's entropy-coded data; no byte of it can be taken for a marker.
_NOISE = np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8).tobytes()
_CORNER = 8


def read_image(path: Path | str) -> Image:
    """Read an image file.

    Args:
        path: a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PNM file.

    Returns:
        uint8 `[H, W, 3]` RGB, upright.

    Raises:
        DataError: the file is missing, of another kind, damaged, cut short or too large; the message names it.
    """
    try:
        return decode(read_content(Path(path)))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_content(path: Path) -> bytes:
    """Return the content of a plain file.

    Raises:
        DataError: there is no such file, it is not a plain one, or it cannot be read.
    """
    try:
        # Opening a FIFO waits for a writer, unless it is told not to.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor, not a path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataError("not a plain file")
        try:
            return file.read()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})") from error


def decode(content: bytes, max_pixels: int | None = None) -> Image:
    """Decode the content of an image file; of an animation, its still image or first frame.

    Args:
        content: of the file.
        max_pixels: the largest image that is decoded; by default that of the environment variable
            FOCALEDGE_MAX_PIXELS, else 64 million.

    Returns:
        uint8 `[H, W, 3]` RGB, upright by its EXIF orientation.

    Raises:
        DataError: it is of no known format, damaged, cut short or too large.
    """
    header = read_header(content)
    limit = largest_image() if max_pixels is None else max_pixels
    if header.width * header.height > limit:
        raise DataError(
            f"{header.width}x{header.height} pixels; expected at most {limit:,}: make it smaller, or set "
            f"{MAX_PIXELS_VARIABLE}"
        )
    frame = _decoded(header)
    if header.format == "JPEG" and _may_be_cut(header, frame) and _reads_past_its_end(header, frame):
        raise DataError(CUT_SHORT)
    return bgr_to_rgb(np.ascontiguousarray(_upright(frame, header.orientation)))


def largest_image() -> int:
    """Return the size limit in pixels that the environment sets, or the default.

    Raises:
        ConfigError: the variable is not a positive whole number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if text and not re.fullmatch(r"[1-9]\d{0,11}", text):
        raise ConfigError(f"received {MAX_PIXELS_VARIABLE}={text!r}; expected a number of pixels, 1 or more")
    return int(text) if text else MAX_PIXELS


def _decoded(header: Header) -> Image:
    if header.format in NEEDS_OPENCV_5 and int(cv2.__version__.partition(".")[0]) < 5:
        raise DataError(f"{header.format} needs OpenCV 5 or newer; this is {cv2.__version__}")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        frame = cv2.imdecode(np.frombuffer(header.content, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{header.format} that OpenCV refuses") from error
    if frame is None:
        raise DataError(f"{header.format} that OpenCV {cv2.__version__} cannot decode: damaged, or of an unknown kind")
    return np.asarray(frame, dtype=np.uint8)


def _may_be_cut(header: Header, frame: Image) -> bool:
    """Return whether a JPEG has no end marker, or a last block of one colour, as the decoder fills in."""
    corner = frame[-_CORNER:, -_CORNER:]
    return not header.ended or bool((corner == corner[:1, :1]).all())


def _reads_past_its_end(header: Header, frame: Image) -> bool:
    """Return whether a JPEG looks different with other data after its last scan: then it has too little."""
    data = header.content[: header.scan_end].rstrip(b"\xff")
    longer = replace(header, content=data + _NOISE + JPEG_END)
    try:
        return not np.array_equal(_decoded(longer), frame)
    except DataError:
        return True


def _upright(frame: Image, orientation: int) -> Image:
    """Undo an EXIF orientation: transpose for 5 to 8, then mirror."""
    if orientation >= 5:
        frame = frame.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        frame = frame[::-1]
    if orientation in (2, 3, 6, 7):
        frame = frame[:, ::-1]
    return frame
