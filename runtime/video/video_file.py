"""A video file, or one at a URL: every frame of it, and an error where it gives fewer than its container states."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from runtime.core.errors import DataError, SourceError
from runtime.images.preprocess import Image, bgr_to_rgb
from runtime.video.container import NO_COUNT, Extent, read_extent
from runtime.video.opencv_path import opencv_path

LIVE_FPS = 30.0
MAX_BAD_FRAMES = 100
# OpenCV goes on after a frame that it cannot decode, if it is asked again.
MAX_FAILED_READS = 32
# A file elsewhere states its frames, but not how many of them it shows.
URL_SLACK = 0.05
COUNTED_SUFFIXES = frozenset({".avi", ".m4v", ".mov", ".mp4"})

Images = Generator[tuple[int, Image], None, None]


@dataclass
class Video:
    """An open video.

    Attributes:
        title: its name in errors.
        open_capture: opens it again, for another pass.
        extent: what its container states.
        fps: frames per second.
        read: frames read in this pass.
        lost: frames of this pass that could not be decoded, between others that could.
    """

    title: str
    open_capture: Callable[[], Any]
    extent: Extent
    fps: float = LIVE_FPS
    read: int = 0
    lost: int = 0

    def images(self, capture: Any, on_skip: Callable[[str], None], loop: bool) -> Images:
        """Yield index and image of each frame, uint8 `[H, W, 3]` RGB.

        Args:
            capture: the open video, which is closed at the end.
            on_skip: receives the index of each unusable frame and the reason.
            loop: start again after the last frame.

        Raises:
            SourceError: frames are missing, or too many in a row are unusable.
        """
        try:
            while True:
                yield from self._pass(capture, on_skip)
                self._check()
                if not loop:
                    return
                capture.release()
                capture = self.open_capture()
                self.read = self.lost = 0
        finally:
            capture.release()

    def _pass(self, capture: Any, on_skip: Callable[[str], None]) -> Images:
        bad_frames = 0
        while (frame := self._next(capture, on_skip)) is not _END:
            index = self.read + self.lost - 1
            try:
                image = bgr_to_rgb(frame)
            except DataError as error:
                bad_frames += 1
                on_skip(f"{index}: {error}")
            else:
                bad_frames = 0
                yield index, image
            if bad_frames >= MAX_BAD_FRAMES:
                raise SourceError(f"{self.title} gave {bad_frames} unusable frames in a row; convert it to MP4 (H.264)")

    def _next(self, capture: Any, on_skip: Callable[[str], None]) -> Any:
        """Return the next frame that can be decoded, `_END` after the last."""
        for failed in range(MAX_FAILED_READS):
            try:
                received, frame = capture.read()
            except cv2.error:
                received, frame = False, None
            if received:
                for lost in range(failed):
                    on_skip(f"{self.read + self.lost + lost}: it cannot be decoded")
                self.read += 1
                self.lost += failed
                return frame
            if self.extent.frames is not None and self.read + self.lost >= self.extent.frames:
                break
        return _END

    def _check(self) -> None:
        """Raise SourceError if this pass lacks frames."""
        if not self.read:
            raise self.unreadable()
        extent = self.extent
        if extent.frames is None:
            incomplete = bool(self.lost or extent.fault)
        else:
            incomplete = self.lost > 0 or self.read < extent.frames - extent.slack
        if incomplete:
            total = "" if extent.frames is None else f" of {extent.frames}"
            reasons = [extent.fault or "the others cannot be decoded", *([extent.note] if extent.note else [])]
            raise SourceError(
                f"{self.title} is damaged: {self.read}{total} frames were read ({'; '.join(reasons)}); "
                "copy or convert it again"
            )

    def unreadable(self) -> SourceError:
        """Return the error for a file without a frame."""
        reason = f" ({self.extent.fault}; copy it again)" if self.extent.fault else ""
        return SourceError(
            f"{self.title} cannot be read as an image or a video{reason}; convert it to MP4 (H.264), JPEG or PNG"
        )


_END: Any = object()


def open_video_file(path: Path, on_skip: Callable[[str], None], loop: bool) -> tuple[Video, Images]:
    """Open a video file and read its first frame.

    Args:
        path: the file.
        on_skip: receives the index of each unusable frame and the reason.
        loop: start again after the last frame.

    Raises:
        SourceError: it has no frame.
    """
    video = Video(str(path), lambda: _capture_of(path), read_extent(path))
    return video, _begin(video, video.open_capture(), on_skip, loop)


def _capture_of(path: Path) -> cv2.VideoCapture:
    # What is open stays so without its link.
    with opencv_path(path) as name:
        return cv2.VideoCapture(name)


def open_video_url(
    url: str,
    title: str,
    suffix: str,
    timeout_s: float,
    explain: Callable[[], str],
    on_skip: Callable[[str], None],
    loop: bool,
) -> tuple[Video, Images]:
    """Open a video at a URL and read its first frame.

    Args:
        url: of the file.
        title: the URL without secrets.
        suffix: of the file's name, in lower case.
        timeout_s: longest wait for its server, in seconds.
        explain: returns why it cannot be opened, and what to do.
        on_skip: receives the index of each unusable frame and the reason.
        loop: start again after the last frame.

    Raises:
        SourceError: it has no frame.
    """
    timeout_ms = max(1, round(timeout_s * 1e3))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    video = Video(title, lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits), Extent(None, NO_COUNT))
    capture = video.open_capture()
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{title} cannot be opened: {explain()}")
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if suffix in COUNTED_SUFFIXES and frames > 0:
        video.extent = Extent(frames, slack=round(URL_SLACK * frames))
    return video, _begin(video, capture, on_skip, loop)


def _begin(video: Video, capture: Any, on_skip: Callable[[str], None], loop: bool) -> Images:
    images = video.images(capture, on_skip, loop)
    first = next(images, None)
    if first is None:
        raise video.unreadable()
    fps = capture.get(cv2.CAP_PROP_FPS)
    # Some containers state no rate, and some an impossible one.
    video.fps = fps if 1.0 <= fps <= 240.0 else LIVE_FPS
    return _from(first, images)


def _from(first: tuple[int, Image], images: Images) -> Images:
    try:
        yield first
        yield from images
    finally:
        images.close()
