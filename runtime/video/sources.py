"""Frame sources: cameras, streams, videos, images, dataset splits and the built-in sample clip."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from runtime.core.errors import DataError, SourceError
from runtime.images.decode import read_image
from runtime.images.formats import FIRST_BYTES, SUFFIXES, starts_like_an_image
from runtime.images.listing import Listing, images_of
from runtime.images.preprocess import Image, bgr_to_rgb
from runtime.video.sample_clip import sample_frames

if TYPE_CHECKING:
    from runtime.video.camera import Camera

SAMPLE = "sample"
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
SPLIT_SUFFIX = ".npz"
CAMERA_TIMEOUT_S = 5.0
RECONNECT_S = 60.0
LIVE_FPS = 30.0
MAX_BAD_FRAMES = 100

Skip = Callable[[str], None]
Frames = Generator["Frame", None, None]


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        image_rgb: uint8 `[H, W, 3]` RGB.
        name: file or source, and index.
        true_label: its class, if the source knows it.
        stalled: why a live source has no frame newer than this one, which was yielded before; "" for a new frame.
    """

    image_rgb: Image
    name: str
    true_label: str | None = None
    stalled: str = ""


@dataclass(frozen=True)
class Source:
    """An open source.

    Attributes:
        frames: yields the frames.
        fps: frames per second; `None` for separate images.
        live: the source does not wait for its reader.
        dropped_frames: returns how many frames of a live source were never yielded.
    """

    frames: Iterator[Frame]
    fps: float | None
    live: bool = False
    dropped_frames: Callable[[], int] = lambda: 0


@contextmanager
def open_source(
    spec: str,
    *,
    on_skip: Skip,
    on_note: Skip = lambda line: None,
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
            - a video file, or its URL if the name has a video suffix;
            - an image, a folder of images (searched recursively) or a pattern ("shots/*.png"), sorted by name;
            - a split file (`runtime.evaluation.split_file`), whose frames have their true labels;
            - "sample".
        on_skip: receives the reason for each unusable image or video frame.
        on_note: receives a line on the files of a folder that are passed over.
        timeout_s: how long a camera or stream may give no frame before it is reopened, in seconds.
        reconnect_s: how long a camera or stream that gave frames may give none before it fails, in seconds.
        tick_s: yield the last frame of a camera or stream with `Frame.stalled` after this many seconds without a new
            one, so that the caller can do other work; by default, wait for the new one.
        loop: start again after the last frame of a source that ends.

    Yields:
        The source; the frames of cameras and streams never end, others end unless `loop` is true.

    Raises:
        SourceError: there is no such source, or it gives no frame; raised on opening or
            while its frames are read.
    """
    if is_live(spec):
        with _camera(spec, timeout_s, reconnect_s) as camera:
            name = f"camera {spec}" if _is_device(spec) else _without_secrets(spec)
            yield Source(live_frames(name, camera, tick_s), LIVE_FPS, True, lambda: camera.dropped_frames)
        return
    frames, fps = _finite(spec, on_skip, on_note, loop)
    with closing(frames):
        yield Source(frames, fps)


def is_live(spec: str) -> bool:
    """Return whether a source is a camera, a stream or a pipeline, which never end."""
    return _is_device(spec) or _is_pipeline(spec) or (_is_url(spec) and not _is_video_url(spec))


def live_frames(name: str, camera: Camera, tick_s: float | None) -> Iterator[Frame]:
    """Yield the frames of an open camera without end; for `tick_s`, see `open_source`."""
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


def _is_device(spec: str) -> bool:
    return spec.isdecimal() or (spec.startswith("/dev/") and not spec.startswith("/dev/shm/"))


def _is_url(spec: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", spec, re.IGNORECASE) is not None


def _is_video_url(spec: str) -> bool:
    # RTSP servers name streams after files too, but play them at their own rate.
    parts = urlsplit(spec)
    return parts.scheme.lower() in ("http", "https", "file", "ftp") and (
        PurePosixPath(parts.path).suffix.lower() in VIDEO_SUFFIXES
    )


def _is_pipeline(spec: str) -> bool:
    return " ! " in spec


def _without_secrets(spec: str) -> str:
    """Return a URL without its password and query, or the head of a pipeline, to show on a screen."""
    if _is_pipeline(spec):
        return spec.split()[0]
    parts = urlsplit(spec)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _camera(spec: str, timeout_s: float, reconnect_s: float) -> Camera:
    from runtime.video.camera import Camera

    arguments: tuple[Any, ...]
    if _is_device(spec):
        name, arguments = _device(spec), (int(spec) if spec.isdecimal() else spec,)
    elif _is_pipeline(spec):
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError("this OpenCV has no GStreamer; install an OpenCV built with it, or give the stream's URL")
        name, arguments = _without_secrets(spec), (spec, cv2.CAP_GSTREAMER)
    else:
        # FFmpeg itself waits for half a minute.
        timeout_ms = max(1, round(timeout_s * 1e3))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        name, arguments = _without_secrets(spec), (spec, cv2.CAP_FFMPEG, limits)
    return Camera(
        name,
        lambda: cv2.VideoCapture(*arguments),
        timeout_s=timeout_s,
        reconnect_s=reconnect_s,
        may_stand_still=not _is_device(spec),
    )


def _device(spec: str) -> str:
    """Return the path of a camera's device, which must exist."""
    device = f"/dev/video{int(spec)}" if spec.isdecimal() else spec
    # OpenCV takes seconds and prints pages before it gives up on a missing device.
    if sys.platform == "linux" and not Path(device).exists():
        present = ", ".join(sorted(str(each) for each in Path("/dev").glob("video*"))) or "none"
        raise SourceError(
            f"there is no camera {device} (video devices here: {present}); plug one in, "
            f"or try the demo without a camera: --source {SAMPLE}"
        )
    return device


def _finite(spec: str, on_skip: Skip, on_note: Skip, loop: bool) -> tuple[Frames, float | None]:
    """Return the frames and the rate of a source that ends."""
    path = Path(spec)
    fps: float | None = None
    once: Callable[[], Iterator[Frame]]
    if spec == SAMPLE:
        once, fps = _sample, LIVE_FPS
    elif _is_video_url(spec):
        return _video(spec, on_skip, loop)
    elif (listing := _listing(spec)) is not None:
        if passed := listing.passed_over():
            on_note(f"{spec}: passed over {passed}")
        once = lambda: _images(spec, path, listing.images, on_skip)  # noqa: E731
    elif not path.is_file():
        raise SourceError(
            f"there is no source {spec!r}; give a camera index, a URL, a video, an image, a folder or pattern of "
            f"images, a split file ({SPLIT_SUFFIX}), or `{SAMPLE}`"
        )
    elif path.suffix.lower() == SPLIT_SUFFIX:
        once = _split(path)
    elif _is_image(path):
        image = _image(path)
        once = lambda: iter([image])  # noqa: E731
    else:
        return _video(spec, on_skip, loop)
    return _repeated(once, loop), fps


def _listing(spec: str) -> Listing | None:
    """Return the images of a folder or a pattern; `None` for any other path."""
    try:
        return images_of(spec)
    except DataError as error:
        raise SourceError(str(error)) from error


def _repeated(once: Callable[[], Iterator[Frame]], loop: bool) -> Frames:
    yield from once()
    while loop:
        yield from once()


def _video(spec: str, on_skip: Skip, loop: bool) -> tuple[Frames, float]:
    capture = cv2.VideoCapture(spec)
    received, first = capture.read()
    if not received:
        capture.release()
        raise SourceError(f"{spec} cannot be read as an image or a video; convert it to MP4 (H.264), JPEG or PNG")
    fps = capture.get(cv2.CAP_PROP_FPS)
    frames = _video_frames(spec, capture, first, on_skip, loop)
    # Some containers state no rate, and some an impossible one.
    return frames, fps if 1.0 <= fps <= 240.0 else LIVE_FPS


def _video_frames(spec: str, capture: cv2.VideoCapture, first: Image, on_skip: Skip, loop: bool) -> Frames:
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


def _sample() -> Iterator[Frame]:
    for index, image in enumerate(sample_frames()):
        yield Frame(image, f"{SAMPLE}:{index}")


def _split(path: Path) -> Callable[[], Iterator[Frame]]:
    # Only this source needs it.
    from runtime.evaluation.split_file import read_split

    try:
        images = read_split(path)
    except DataError as error:
        raise SourceError(str(error)) from error

    def frames() -> Iterator[Frame]:
        for image, image_id, label in zip(images.images, images.ids, images.labels, strict=True):
            yield Frame(image, f"{images.split}:{image_id}", images.class_names[label])

    return frames


def _is_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return starts_like_an_image(file.read(FIRST_BYTES))
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error})") from error


def _image(path: Path) -> Frame:
    try:
        return Frame(read_image(path), path.name)
    except DataError as error:
        raise SourceError(str(error)) from error


def _images(spec: str, folder: Path, paths: Sequence[Path], on_skip: Skip) -> Iterator[Frame]:
    readable = False
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            on_skip(str(error))
            continue
        readable = True
        yield Frame(image, str(path.relative_to(folder) if path.is_relative_to(folder) else path))
    if not readable:
        raise SourceError(
            f"{spec} has no readable image among {len(paths)} files named "
            f"{', '.join(SUFFIXES)}; give a folder or pattern with images"
        )
