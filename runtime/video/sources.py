"""Where frames come from: a camera, a stream, a video, images, a split of a data set, or the built-in sample."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import cv2
import numpy as np

from runtime.core.errors import DataError, SourceError
from runtime.images.preprocess import Image, bgr_to_rgb, read_image
from runtime.video.camera import Camera
from runtime.video.sample_clip import sample_frames

SAMPLE = "sample"
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Of what has an end and is played frame by frame, wherever it comes from.
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
SPLIT_SUFFIX = ".npz"
CAMERA_TIMEOUT_S = 5.0
RECONNECT_S = 60.0
LIVE_FPS = 30.0
MAX_BAD_FRAMES = 100

Frames = Generator["Frame", None, None]


@dataclass(frozen=True)
class Frame:
    """One image and where it came from.

    Attributes:
        image_rgb: uint8 `[H, W, 3]` RGB.
        name: what to call it.
        true_label: what it shows, if the source knows.
        stalled: why a live source has nothing newer than this frame, which came before; "" of a new frame.
    """

    image_rgb: Image
    name: str
    true_label: str | None = None
    stalled: str = ""


@dataclass(frozen=True)
class Source:
    """Frames, and how they come.

    Attributes:
        frames: yields them.
        fps: how many belong to a second; None for separate images.
        live: they do not wait for the one who shows them.
        dropped_frames: returns how many of a live source were never yielded.
    """

    frames: Iterator[Frame]
    fps: float | None
    live: bool = False
    dropped_frames: Callable[[], int] = lambda: 0


@contextmanager
def open_source(
    spec: str,
    *,
    on_skip: Callable[[str], None],
    timeout_s: float = CAMERA_TIMEOUT_S,
    reconnect_s: float = RECONNECT_S,
    tick_s: float | None = None,
    loop: bool = False,
) -> Iterator[Source]:
    """Open a source of frames for the length of a `with` block.

    Args:
        spec: one of
            - a camera's index ("0") or device ("/dev/video0");
            - an RTSP, HTTP or other URL that OpenCV reads, or a GStreamer pipeline ("... ! appsink");
            - a video file, also by URL if its name has a video's ending;
            - an image, a folder of images (searched through) or a pattern ("shots/*.png"), in the order of names;
            - a split file (`runtime.evaluation.split_file`), whose frames have their true labels;
            - "sample".
        on_skip: told about each image or frame of a video that cannot be used: which and why.
        timeout_s: how long a camera or stream may give no frame before it is opened anew, in seconds.
        reconnect_s: how long one that gave frames may give none before it fails, in seconds.
        tick_s: of a camera or stream, yield the last frame with `Frame.stalled` after so long without a new one,
            in seconds, so that the caller can go on with other work; by default it is waited for.
        loop: begin again after the last frame of what has one.

    Yields:
        The source; a camera's and a stream's frames never end, all others do unless `loop` is true.

    Raises:
        SourceError: there is no such source, or it gives no frame; raised on opening or
            while its frames are read.
    """
    if is_live(spec):
        with _camera(spec, timeout_s, reconnect_s) as camera:
            name = f"camera {spec}" if _is_device(spec) else _short(spec)
            yield Source(_newest(name, camera, tick_s), LIVE_FPS, True, lambda: camera.dropped_frames)
        return
    frames, fps = _finite(spec, on_skip, loop)
    with closing(frames):
        yield Source(frames, fps)


def is_live(spec: str) -> bool:
    """Return whether a source is a camera, a stream or a pipeline, rather than something with an end."""
    return _is_device(spec) or _is_pipeline(spec) or (_is_url(spec) and not _is_video_url(spec))


def camera_devices() -> list[str]:
    """Return the video devices of this machine, e.g. `["/dev/video0"]`; empty where none are listed."""
    return sorted(str(device) for device in Path("/dev").glob("video*"))


def _is_device(spec: str) -> bool:
    return spec.isdecimal() or (spec.startswith("/dev/") and not spec.startswith("/dev/shm/"))


def _is_url(spec: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", spec, re.IGNORECASE) is not None


def _is_video_url(spec: str) -> bool:
    # RTSP servers too name their streams after files, but play them in their own time.
    parts = urlsplit(spec)
    return parts.scheme.lower() in ("http", "https", "file", "ftp") and (
        PurePosixPath(parts.path).suffix.lower() in VIDEO_SUFFIXES
    )


def _is_pipeline(spec: str) -> bool:
    return " ! " in spec


def _short(spec: str) -> str:
    """Return a URL without its password and query, or the head of a pipeline: neither belongs on a screen."""
    if _is_pipeline(spec):
        return spec.split()[0]
    parts = urlsplit(spec)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _newest(name: str, camera: Camera, tick_s: float | None) -> Iterator[Frame]:
    last = Frame(np.zeros((1, 1, 3), dtype=np.uint8), name)
    index = 0
    while True:
        image = camera.wait(tick_s or camera.timeout_s)
        if image is not None:
            last = Frame(image, f"{name}:{index}")
            index += 1
            yield last
        elif tick_s:
            yield replace(last, stalled=camera.trouble() or f"waiting for {name}")


def _camera(spec: str, timeout_s: float, reconnect_s: float) -> Camera:
    if _is_device(spec):
        return _device(spec, timeout_s, reconnect_s)
    if _is_pipeline(spec):
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(
                "this OpenCV has no GStreamer; install one that was built with it, or give the stream's URL"
            )
        return Camera(
            _short(spec),
            lambda: cv2.VideoCapture(spec, cv2.CAP_GSTREAMER),
            timeout_s=timeout_s,
            reconnect_s=reconnect_s,
            may_stand_still=True,
        )
    # FFmpeg's own patience is half a minute.
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
    parameters = [number for limit in limits for number in (limit, max(1, round(timeout_s * 1e3)))]
    return Camera(
        _short(spec),
        lambda: cv2.VideoCapture(spec, cv2.CAP_FFMPEG, parameters),
        timeout_s=timeout_s,
        reconnect_s=reconnect_s,
        may_stand_still=True,
    )


def _device(spec: str, timeout_s: float, reconnect_s: float) -> Camera:
    device = f"/dev/video{int(spec)}" if spec.isdecimal() else spec
    # OpenCV takes seconds and prints pages before it gives up on a device that is not there.
    if sys.platform == "linux" and not Path(device).exists():
        there = ", ".join(camera_devices()) or "none"
        raise SourceError(
            f"there is no camera {device} (video devices here: {there}); plug one in, "
            f"or try the demo without a camera: --source {SAMPLE}"
        )
    target = int(spec) if spec.isdecimal() else spec
    return Camera(device, lambda: cv2.VideoCapture(target), timeout_s=timeout_s, reconnect_s=reconnect_s)


def _finite(spec: str, on_skip: Callable[[str], None], loop: bool) -> tuple[Frames, float | None]:
    """Return the frames of what has an end, and their rate."""
    path = Path(spec)
    if spec == SAMPLE:
        return _repeated(lambda: _named(SAMPLE, sample_frames()), loop), LIVE_FPS
    if _is_video_url(spec):
        return _video(spec, on_skip, loop)
    if path.is_dir():
        every = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
        return _repeated(lambda: _images(spec, path, sorted(every), on_skip), loop), None
    if not path.exists() and re.search(r"[*?\[]", spec):
        every = [file for file in _matches(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        return _repeated(lambda: _images(spec, None, sorted(every), on_skip), loop), None
    if not path.is_file():
        raise SourceError(
            f"there is no source {spec!r}; give a camera index, a URL, a video, an image, a folder or pattern of "
            f"images, a split file ({SPLIT_SUFFIX}), or `{SAMPLE}`"
        )
    if path.suffix.lower() == SPLIT_SUFFIX:
        return _repeated(_split(path), loop), None
    if cv2.haveImageReader(spec):
        image = _image(path)
        return _repeated(lambda: iter([image]), loop), None
    return _video(spec, on_skip, loop)


def _matches(pattern: Path) -> list[Path]:
    start = Path(pattern.anchor)
    try:
        return list(start.glob(str(pattern.relative_to(start))))
    # A pattern that can match nothing, such as "**png".
    except ValueError as error:
        raise SourceError(f"received the pattern {str(pattern)!r} ({error}); give one such as 'shots/*.png'") from error


def _repeated(once: Callable[[], Iterator[Frame]], loop: bool) -> Frames:
    yield from once()
    while loop:
        yield from once()


def _video(spec: str, on_skip: Callable[[str], None], loop: bool) -> tuple[Frames, float]:
    capture = cv2.VideoCapture(spec)
    received, first = capture.read()
    if not received:
        capture.release()
        raise SourceError(f"{spec} cannot be read as an image or a video; convert it to MP4 (H.264), JPEG or PNG")
    fps = capture.get(cv2.CAP_PROP_FPS)
    frames = _video_frames(spec, capture, first, on_skip, loop)
    # Some containers state no rate, and some an absurd one.
    return frames, fps if 1.0 <= fps <= 240.0 else LIVE_FPS


def _video_frames(
    spec: str, capture: cv2.VideoCapture, first: Image, on_skip: Callable[[str], None], loop: bool
) -> Frames:
    name = PurePosixPath(urlsplit(spec).path).name if _is_url(spec) else Path(spec).name
    received, frame = True, first
    bad_frames = 0
    try:
        while received:
            index = 0
            while received:
                try:
                    image = bgr_to_rgb(frame)
                except DataError as error:
                    bad_frames += 1
                    on_skip(f"{name}:{index}: {error}")
                else:
                    bad_frames = 0
                    yield Frame(image, f"{name}:{index}")
                if bad_frames >= MAX_BAD_FRAMES:
                    raise SourceError(f"{spec} gave {bad_frames} unusable frames in a row; convert it to MP4 (H.264)")
                index += 1
                received, frame = capture.read()
            if loop:
                capture.release()
                capture = cv2.VideoCapture(spec)
                received, frame = capture.read()
    finally:
        capture.release()


def _named(name: str, images: Iterator[Image]) -> Iterator[Frame]:
    for index, image in enumerate(images):
        yield Frame(image, f"{name}:{index}")


def _split(path: Path) -> Callable[[], Iterator[Frame]]:
    # Imported here, as no other source needs it.
    from runtime.evaluation.split_file import read_split

    try:
        images = read_split(path)
    except DataError as error:
        raise SourceError(str(error)) from error

    def frames() -> Iterator[Frame]:
        for image, image_id, label in zip(images.images, images.ids, images.labels, strict=True):
            yield Frame(image, f"{images.split}:{image_id}", images.class_names[label])

    return frames


def _image(path: Path) -> Frame:
    try:
        return Frame(read_image(str(path)), path.name)
    except DataError as error:
        raise SourceError(str(error)) from error


def _images(spec: str, folder: Path | None, paths: list[Path], on_skip: Callable[[str], None]) -> Iterator[Frame]:
    count = 0
    for path in paths:
        try:
            frame = Frame(read_image(str(path)), str(path.relative_to(folder) if folder else path))
        except DataError as error:
            on_skip(str(error))
            continue
        count += 1
        yield frame
    if count == 0:
        raise SourceError(
            f"{spec} has no readable image among {len(paths)} files named "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}; give a folder or pattern with images"
        )
