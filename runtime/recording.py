"""Panels into files: a video or a picture that is complete, or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from runtime.canvas import letterbox
from runtime.errors import ConfigError, FocalEdgeError, SourceError
from runtime.files import replacing
from runtime.preprocess import Image

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
PICTURE_SUFFIX = ".png"

Write = Callable[[Image, float], None]


@contextmanager
def open_output(path: Path | None) -> Iterator[Write]:
    """Open a file for panels; it takes its name when the block succeeds.

    Args:
        path: a .mp4 or .avi video, a .png picture, or `None` to write nothing.

    Yields:
        The function that takes each panel, uint8 `[h, w, 3]` RGB, and the frames a second.

    Raises:
        ConfigError: a file of another kind.
        FocalEdgeError: the file cannot be written, or does not hold every panel.
    """
    if path is None:
        yield lambda panel, fps: None
    elif is_picture(path):
        with replacing(path) as temporary:
            yield lambda panel, fps: _write_png(temporary, panel)
    elif path.suffix.lower() in VIDEO_CODECS:
        with replacing(path) as temporary:
            video = VideoFile(temporary, VIDEO_CODECS[path.suffix.lower()])
            try:
                yield video.write
            finally:
                video.close()
            video.check()
    else:
        kinds = ", ".join((*VIDEO_CODECS, PICTURE_SUFFIX))
        raise ConfigError(f"cannot write {path}: its name must end in one of {kinds}")


def is_picture(path: Path) -> bool:
    """Whether `open_output` writes one picture, rather than a video, under this name."""
    return path.suffix.lower() == PICTURE_SUFFIX


def save_picture(path: Path, picture: Image) -> None:
    """Write a picture as PNG, by temporary name and rename.

    Args:
        path: the file; its folder is made if missing.
        picture: uint8 `[h, w, 3]` RGB.

    Raises:
        FocalEdgeError: the picture cannot be encoded, or the file not written (the old one stays).
    """
    with replacing(path) as temporary:
        _write_png(temporary, picture)


class VideoFile:
    """A video that takes the size of its first panel; later panels are fitted into it."""

    def __init__(self, path: Path, codec: str) -> None:
        """Prepare a video; `codec` is its four-character code."""
        self._path = path
        self._codec = cv2.VideoWriter.fourcc(*codec)
        self._writer: cv2.VideoWriter | None = None
        self._shape = (0, 0)
        self._count = 0

    def write(self, panel: Image, fps: float) -> None:
        """Add one uint8 `[h, w, 3]` RGB panel, h and w even; the first panel's rate holds."""
        if self._writer is None:
            self._shape = (panel.shape[0], panel.shape[1])
            self._writer = cv2.VideoWriter(str(self._path), self._codec, fps, self._shape[::-1])
            if not self._writer.isOpened():
                raise SourceError(
                    f"this OpenCV cannot write {self._path.suffix} videos; "
                    f"name the output .avi, or {PICTURE_SUFFIX} for the first frame"
                )
        self._writer.write(np.ascontiguousarray(letterbox(panel, *self._shape)[..., ::-1]))
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """Raise SourceError if the file does not hold every panel: OpenCV reports no failed write."""
        written = cv2.VideoCapture(str(self._path))
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if count != self._count:
            raise SourceError(f"the video holds {count} of {self._count} frames; choose a folder that has more room")


def _write_png(path: Path, picture: Image) -> None:
    try:
        # Encoded in memory: OpenCV's own writing tells no reason when it fails.
        encoded, data = cv2.imencode(PICTURE_SUFFIX, picture[..., ::-1])
    except cv2.error:
        encoded = False
    if not encoded:
        raise FocalEdgeError(
            f"cannot encode a picture of shape {picture.shape} and dtype {picture.dtype}; "
            "expected uint8 [h, w, 3] that is not empty"
        )
    path.write_bytes(data.tobytes())
