"""Write panels to a video or an image file, which appears complete or not at all.

The exception is a full disk: the video is ended while there is room for its index, without which no player opens
it, and kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from runtime.core.errors import ConfigError, FocalEdgeError, SourceError
from runtime.core.files import replacing
from runtime.draw.canvas import letterbox
from runtime.images.preprocess import Image
from runtime.video.opencv_path import opencv_path

VIDEO_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
IMAGE_SUFFIX = ".png"
# Room for the frames that FFmpeg buffers and for the index of hours of video.
ROOM_BYTES = 16 * 2**20

Write = Callable[[Image, float], None]


class DiskFullError(SourceError):
    """The disk has no room for more frames of a video."""


@contextmanager
def open_output(path: Path) -> Iterator[Write]:
    """Open a file for panels; it is published under its name when the block succeeds.

    Args:
        path: a .mp4 or .avi video, or a .png image.

    Yields:
        The function that writes a panel, uint8 `[h, w, 3]` RGB, at a number of frames per second.

    Raises:
        ConfigError: a file of another kind.
        DiskFullError: the disk has no room for all panels; the video holds those before.
        FocalEdgeError: the file cannot be written, or does not hold all panels.
    """
    if is_image(path):
        with replacing(path) as temporary:
            yield lambda panel, fps: _write_png(temporary, panel)
    elif path.suffix.lower() in VIDEO_CODECS:
        with _open_video(path) as write:
            yield write
    else:
        kinds = ", ".join((*VIDEO_CODECS, IMAGE_SUFFIX))
        raise ConfigError(f"cannot write {path}: its name must end in one of {kinds}")


@contextmanager
def _open_video(path: Path) -> Iterator[Write]:
    full: DiskFullError | None = None
    with replacing(path) as temporary, opencv_path(temporary) as name:
        video = VideoFile(temporary, VIDEO_CODECS[path.suffix.lower()], name)
        try:
            yield video.write
        except DiskFullError as error:
            if not video.count:
                raise
            full = error
        finally:
            video.close()
        video.check()
    if full:
        raise DiskFullError(f"{full}; {path} holds the {video.count} frames before") from full


def free_name(path: Path) -> Path:
    """Return `path`, or the first free name of `name-2`, `name-3`, ... if it exists."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def is_image(path: Path) -> bool:
    """Return whether `open_output` writes an image, not a video, to this file."""
    return path.suffix.lower() == IMAGE_SUFFIX


def save_image(path: Path, image: Image) -> None:
    """Write an image as PNG, all or nothing.

    Args:
        path: the file; its folder is created if missing.
        image: uint8 `[h, w, 3]` RGB.

    Raises:
        FocalEdgeError: the image cannot be encoded, or the file cannot be written (the old one stays).
    """
    with replacing(path) as temporary:
        _write_png(temporary, image)


class VideoFile:
    """A video of the size of its first panel; later panels are fitted into it."""

    def __init__(self, path: Path, codec: str, opencv_name: str) -> None:
        """Prepare a video.

        Args:
            path: the file.
            codec: its four-character code.
            opencv_name: the file's path for OpenCV; see `opencv_path`.
        """
        self._path = path
        self._name = opencv_name
        self._codec = cv2.VideoWriter.fourcc(*codec)
        self._writer: cv2.VideoWriter | None = None
        self._shape = (0, 0)
        self.count = 0

    def write(self, panel: Image, fps: float) -> None:
        """Add a uint8 `[h, w, 3]` RGB panel, h and w even; `fps` of the first panel holds.

        Raises:
            DiskFullError: the disk has no room for it.
            SourceError: this OpenCV does not have the codec.
        """
        free = shutil.disk_usage(self._path.parent).free
        if free < ROOM_BYTES:
            raise DiskFullError(
                f"the disk has {free / 1e6:.1f} MB left, and a video needs {ROOM_BYTES / 1e6:.1f} MB to be finished; "
                "make room or choose another folder"
            )
        if self._writer is None:
            self._shape = (panel.shape[0], panel.shape[1])
            self._writer = cv2.VideoWriter(self._name, self._codec, fps, self._shape[::-1])
            if not self._writer.isOpened():
                raise SourceError(
                    f"this OpenCV cannot write {self._path.suffix} videos; "
                    f"name the output .avi, or {IMAGE_SUFFIX} for the first frame"
                )
        self._writer.write(cv2.cvtColor(letterbox(panel, *self._shape), cv2.COLOR_RGB2BGR))
        self.count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """Raise SourceError if the file does not hold all panels: OpenCV does not report failed writes."""
        written = cv2.VideoCapture(self._name)
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if count != self.count:
            raise SourceError(f"the video holds {count} of {self.count} frames; choose a folder with more room")


def _write_png(path: Path, image: Image) -> None:
    try:
        # Encoded in memory: OpenCV gives no reason when it cannot write a file.
        encoded, data = cv2.imencode(IMAGE_SUFFIX, image[..., ::-1])
    except cv2.error:
        encoded = False
    if not encoded:
        raise FocalEdgeError(
            f"cannot encode an image of shape {image.shape} and dtype {image.dtype}; "
            "expected uint8 [h, w, 3], not empty"
        )
    path.write_bytes(data.tobytes())
