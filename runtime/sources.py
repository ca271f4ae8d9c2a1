"""Where frames come from: a camera, a video, a picture, a folder of pictures, or the built-in sample."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from runtime.camera import Camera
from runtime.errors import DataError, SourceError
from runtime.preprocess import Image, bgr_to_rgb, read_picture
from runtime.sample_clip import sample_frames

SAMPLE = "sample"
PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CAMERA_TIMEOUT_S = 5.0
LIVE_FPS = 30.0


@dataclass(frozen=True)
class Frame:
    """One picture and where it came from; `image_rgb` is uint8 `[H, W, 3]`."""

    image_rgb: Image
    name: str


@dataclass(frozen=True)
class Source:
    """Frames, and how many belong to a second; `fps` is None for separate pictures."""

    frames: Iterator[Frame]
    fps: float | None


@contextmanager
def open_source(spec: str, *, on_skip: Callable[[str], None], timeout_s: float = CAMERA_TIMEOUT_S) -> Iterator[Source]:
    """Open a source of frames for the length of a `with` block.

    Args:
        spec: a camera's index ("0") or device ("/dev/video0"), a video file, a picture, a folder of
            pictures (searched through, in the order of their names), or "sample".
        on_skip: told about each picture of a folder that cannot be read: path and reason.
        timeout_s: how long a camera may give no frame, in seconds.

    Yields:
        The source; a camera's frames never end, all others do.

    Raises:
        SourceError: there is no such camera or file, or it gives no frame; raised on opening or
            while its frames are read.
    """
    path = Path(spec)
    if spec == SAMPLE:
        yield Source(_named(SAMPLE, sample_frames()), LIVE_FPS)
    elif spec.isdecimal() or spec.startswith("/dev/"):
        with _camera(spec, timeout_s) as camera:
            yield Source(_named(f"camera {spec}", map(bgr_to_rgb, camera)), LIVE_FPS)
    elif path.is_dir():
        yield Source(_folder(path, on_skip), None)
    elif not path.is_file():
        raise SourceError(
            f"there is no source {spec!r}; give a camera index, a video, a picture, a folder of pictures, or `{SAMPLE}`"
        )
    elif cv2.haveImageReader(spec):
        yield Source(iter([_picture(path)]), None)
    else:
        capture = cv2.VideoCapture(spec)
        try:
            yield _video(path, capture)
        finally:
            capture.release()


def camera_devices() -> list[str]:
    """Return the video devices of this machine, e.g. `["/dev/video0"]`; empty where none are listed."""
    return sorted(str(device) for device in Path("/dev").glob("video*"))


def _camera(spec: str, timeout_s: float) -> Camera:
    device = f"/dev/video{int(spec)}" if spec.isdecimal() else spec
    # OpenCV takes seconds and prints pages before it gives up on a device that is not there.
    if sys.platform == "linux" and not Path(device).exists():
        there = ", ".join(camera_devices()) or "none"
        raise SourceError(
            f"there is no camera {device} (video devices here: {there}); plug one in, "
            f"or try the demo without a camera: --source {SAMPLE}"
        )
    target = int(spec) if spec.isdecimal() else spec
    return Camera(device, lambda: cv2.VideoCapture(target), timeout_s=timeout_s)


def _video(path: Path, capture: cv2.VideoCapture) -> Source:
    received, first = capture.read()
    if not received:
        raise SourceError(f"{path} cannot be read as a picture or a video; convert it to MP4 (H.264), JPEG or PNG")
    fps = capture.get(cv2.CAP_PROP_FPS)
    # Some containers state no rate, and some an absurd one.
    return Source(_named(path.name, _video_frames(first, capture)), fps if 1.0 <= fps <= 240.0 else LIVE_FPS)


def _video_frames(first: Image, capture: cv2.VideoCapture) -> Iterator[Image]:
    received, frame = True, first
    while received:
        yield bgr_to_rgb(np.asarray(frame, dtype=np.uint8))
        received, frame = capture.read()


def _named(name: str, images: Iterator[Image]) -> Iterator[Frame]:
    for index, image in enumerate(images):
        yield Frame(image, f"{name}:{index}")


def _picture(path: Path) -> Frame:
    try:
        return Frame(read_picture(str(path)), path.name)
    except DataError as error:
        raise SourceError(str(error)) from error


def _folder(folder: Path, on_skip: Callable[[str], None]) -> Iterator[Frame]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    count = 0
    for path in paths:
        try:
            frame = Frame(read_picture(str(path)), str(path.relative_to(folder)))
        except DataError as error:
            on_skip(str(error))
            continue
        count += 1
        yield frame
    if count == 0:
        raise SourceError(
            f"{folder} has no readable picture among {len(paths)} files named "
            f"{', '.join(sorted(PICTURE_SUFFIXES))}; give a folder with pictures"
        )
