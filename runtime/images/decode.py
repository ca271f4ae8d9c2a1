"""The one decoder: from the content of an image file to its pixels, or the reason why it has none."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from runtime.core.errors import ConfigError, DataError
from runtime.images.formats import CUT_SHORT, JPEG_END, Header, read_header, read_jpeg
from runtime.images.preprocess import Image, bgr_to_rgb

# Earlier versions cannot read two of these, and end the process on some files of the third.
NEEDS_OPENCV_5 = ("AVIF", "GIF", "JPEG 2000")
MAX_PIXELS = 64_000_000
MAX_BYTES = 2**30
MAX_PIXELS_VARIABLE = "FOCALEDGE_MAX_PIXELS"
NOISE_BYTES = 4096
FILLING_BYTES = 32
STDERR = 2
_CORNER = 8
_STDERR_LOCK = threading.Lock()


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
        DataError: there is no such file, it is not a plain one, it cannot be read, or it has more than 1 GiB.
    """
    try:
        # Opening a FIFO waits for a writer, unless it is told not to.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a plain file")
        if status.st_size > MAX_BYTES:
            raise DataError(f"{status.st_size:,} bytes; expected an image file of at most {MAX_BYTES:,}")
        return _read_bytes(descriptor, status.st_size)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error
    finally:
        os.close(descriptor)


def _read_bytes(descriptor: int, size: int) -> bytes:
    content = os.read(descriptor, size)
    while len(content) < size and (more := os.read(descriptor, size - len(content))):
        content += more
    return content


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
    image = _decoded(header)
    if header.format == "JPEG" and _may_be_cut(header, image) and _reads_past_its_end(header, image):
        raise DataError(CUT_SHORT)
    if header.format in ("JPEG", "WebP") and _ends_in_zeros(header, image):
        raise DataError(f"{CUT_SHORT}, and filled up with zeros")
    return image if header.orientation == 1 else np.ascontiguousarray(_upright(image, header.orientation))


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
    # OpenCV 5 saves a JPEG's conversion from BGR.
    rgb = getattr(cv2, "IMREAD_COLOR_RGB", None) if header.format == "JPEG" else None
    flags = (cv2.IMREAD_COLOR if rgb is None else rgb) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        frame = cv2.imdecode(np.frombuffer(header.content, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{header.format} that OpenCV refuses") from error
    if frame is None:
        raise DataError(f"{header.format} that OpenCV {cv2.__version__} cannot decode: damaged, or of an unknown kind")
    return bgr_to_rgb(frame) if rgb is None else np.asarray(frame, dtype=np.uint8)


def _may_be_cut(header: Header, image: Image) -> bool:
    """Return whether a JPEG has no end marker, or a last block of one colour, as the decoder fills in."""
    corner = image[-_CORNER:, -_CORNER:].tobytes()
    return not header.ended or corner == corner[:3] * (len(corner) // 3)


def _reads_past_its_end(header: Header, image: Image) -> bool:
    """Return whether a JPEG looks different with other data after its last scan: then it has too little."""
    try:
        scan_end = header.scan_end or read_jpeg(header.content, to_the_end=True).scan_end
    except DataError:
        return True
    data = header.content[:scan_end].rstrip(b"\xff")
    return not _looks_like(image, replace(header, content=data + _noise(NOISE_BYTES) + JPEG_END))


def _ends_in_zeros(header: Header, image: Image) -> bool:
    """Return whether an image takes a part of the zeros at its end: then they fill what was never written.

    The zeros of a sound image, which are rare, are all of its data, or none.
    """
    content = header.content
    end = header.scan_end or len(content) - (len(JPEG_END) if header.format == "JPEG" else 0)
    if not content.endswith(bytes(FILLING_BYTES), 0, end):
        return False
    first = len(content[:end].rstrip(b"\0"))
    whole, last = (
        replace(header, content=content[:start] + _noise(end - start) + content[end:])
        for start in (first, end - FILLING_BYTES // 2)
    )
    return _looks_like(image, last) and not _looks_like(image, whole)


def _looks_like(image: Image, other: Header) -> bool:
    try:
        with _without_native_warnings():
            return np.array_equal(_decoded(other), image)
    except DataError:
        return False


@contextmanager
def _without_native_warnings() -> Iterator[None]:
    """Discard what libraries print on stderr: libjpeg reports the bytes that a check added as corrupt data."""
    # One at a time: of two threads, one would take the other's discarded stderr for the real one.
    with _STDERR_LOCK:
        try:
            stderr = os.dup(STDERR)
        except OSError:  # there is no stderr
            yield
            return
        try:
            with open(os.devnull, "wb") as discarded:  # noqa: PTH123 (a device)
                os.dup2(discarded.fileno(), STDERR)
            yield
        finally:
            os.dup2(stderr, STDERR)
            os.close(stderr)


def _noise(count: int) -> bytes:
    """Return bytes that continue a JPEG's entropy-coded data: none can be taken for a marker."""
    return hashlib.shake_128().digest(count).replace(b"\xff", b"\0")


def _upright(image: Image, orientation: int) -> Image:
    """Undo an EXIF orientation: transpose for 5 to 8, then mirror."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
