"""Frame sources: cameras, streams, videos, images, dataset splits and the built-in sample clip."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import cv2
import numpy as np

from runtime.core.errors import DataError, SourceError
from runtime.core.text import shortened
from runtime.images.decode import read_image
from runtime.images.formats import FIRST_BYTES, SUFFIXES, starts_like_an_image
from runtime.images.listing import Listing, images_of
from runtime.images.preprocess import Image
from runtime.video.container import read_extent
from runtime.video.opencv_path import is_text
from runtime.video.sample_clip import sample_frames
from runtime.video.video_file import LIVE_FPS, Images, Video, open_video_file, open_video_url

if TYPE_CHECKING:
    from runtime.video.camera import Camera

SAMPLE = "sample"
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
SPLIT_SUFFIX = ".npz"
CAMERA_TIMEOUT_S = 5.0
RECONNECT_S = 60.0
# First bytes of the animated images that OpenCV's FFmpeg reads whole: GIF and PNG, not WebP and AVIF.
READABLE_ANIMATIONS = (b"GIF8", b"\x89PNG")
LONGEST_SHOWN = 400
# Number of Linux's video devices.
VIDEO_MAJOR = 81

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
        frames: yields the frames; those of a damaged video end with a `SourceError`.
        fps: frames per second; `None` for separate images.
        live: the source does not wait for its reader.
        dropped_frames: returns how many frames of a live source were never yielded.
        video: counts of a video file; `None` for other sources.
    """

    frames: Iterator[Frame]
    fps: float | None
    live: bool = False
    dropped_frames: Callable[[], int] = lambda: 0
    video: Video | None = None


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
            - a video file or an animated GIF or PNG, or a video's URL if the name has a video suffix;
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
    _check_spec(spec)
    spec = _local(spec)
    if is_live(spec):
        with _camera(spec, timeout_s, reconnect_s) as camera:
            name = f"camera {spec}" if _is_device(spec) else _without_secrets(spec)
            yield Source(live_frames(name, camera, tick_s), LIVE_FPS, True, lambda: camera.dropped_frames)
        return
    source, frames = _finite(spec, on_skip, on_note, loop, timeout_s)
    with closing(frames):
        yield source


def is_live(spec: str) -> bool:
    """Return whether a source is a camera, a stream or a pipeline, which never end.

    Raises:
        SourceError: it looks like a URL and is none.
    """
    spec = _local(spec)
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


def _check_spec(spec: str) -> None:
    """Raise SourceError for a source that no file, URL or camera can be."""
    reason = ""
    if not spec.strip() or "\0" in spec:
        reason = "it names nothing"
    elif _is_root(spec):
        reason = "it is the whole file system"
    elif not is_text(spec) and (_is_device(spec) or _is_url(spec) or _is_pipeline(spec)):
        # OpenCV ends the process on such a name.
        reason = "it is not UTF-8"
    if reason:
        raise SourceError(f"received --source '{shortened(spec, LONGEST_SHOWN)}': {reason}; {_choices()}")
    if _is_url(spec):
        _url(spec)


def _is_root(spec: str) -> bool:
    try:
        return Path(spec).samefile(os.sep)
    except (OSError, ValueError):
        return False


def _choices() -> str:
    return (
        "give a camera index, a URL, a video, an image, a folder or pattern of images, a split file "
        f"({SPLIT_SUFFIX}), or `{SAMPLE}`"
    )


def _url(spec: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        SourceError: it has none.
    """
    try:
        parts = urlsplit(spec)
        _ = parts.port  # checked on first use
    except ValueError as error:
        scheme, _, rest = spec.partition("://")
        shown = rest.partition("?")[0].rpartition("@")[2]
        raise SourceError(
            f"{scheme}://{shown} is not a URL ({str(error).partition(':')[0]}); expected one such as "
            "http://192.168.1.20:8080/video"
        ) from None
    return parts


def _is_device(spec: str) -> bool:
    return (spec.isascii() and spec.isdecimal() and len(spec) < 10) or (
        spec.startswith("/dev/") and not spec.startswith("/dev/shm/")
    )


def _is_url(spec: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", spec, re.IGNORECASE) is not None


def _is_video_url(spec: str) -> bool:
    # RTSP servers name streams after files too, but play them at their own rate.
    parts = _url(spec)
    return parts.scheme.lower() in ("http", "https", "ftp") and _suffix(parts) in VIDEO_SUFFIXES


def _suffix(url: SplitResult) -> str:
    return PurePosixPath(url.path).suffix.lower()


def _local(spec: str) -> str:
    """Return a file's path for its URL; another source as it is."""
    if not spec.lower().startswith("file://"):
        return spec
    path = unquote(_url(spec).path)
    return path if path and "\0" not in path else "/nothing"


def _is_pipeline(spec: str) -> bool:
    return " ! " in spec


def _without_secrets(spec: str) -> str:
    """Return a URL without its password and query, or the head of a pipeline, to show on a screen."""
    if _is_pipeline(spec):
        return spec.split()[0]
    parts = _url(spec)
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
        explain=(lambda: _why_no_video(spec, timeout_s)) if _is_url(spec) else None,
    )


def _device(spec: str) -> str:
    """Return the path of a camera's device, which must exist."""
    device = f"/dev/video{int(spec)}" if spec.isdecimal() else spec
    if sys.platform != "linux":
        return device
    # OpenCV takes seconds and prints pages before it gives up on a missing device, and waits for others for ever.
    if _mode(Path(device)) is None:
        problem = f"there is no camera {device}"
    elif not _is_video_device(Path(device)):
        problem = f"{device} is no camera"
    else:
        return device
    present = ", ".join(sorted(str(each) for each in Path("/dev").glob("video*"))) or "none"
    raise SourceError(
        f"{problem} (video devices here: {present}); plug one in, or try the demo without a camera: --source {SAMPLE}"
    )


def _is_video_device(path: Path) -> bool:
    status = path.stat()
    return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == VIDEO_MAJOR


def _finite(spec: str, on_skip: Skip, on_note: Skip, loop: bool, timeout_s: float) -> tuple[Source, Frames]:
    """Return a source that ends, and its frames, to be closed."""
    path = Path(spec)
    fps: float | None = None
    once: Callable[[], Iterator[Frame]]
    if spec == SAMPLE:
        once, fps = _sample, LIVE_FPS
    elif _is_url(spec):
        return _video_url(spec, on_skip, loop, timeout_s)
    elif (listing := _listing(spec)) is not None:
        if passed := listing.passed_over():
            on_note(f"{spec}: passed over {passed}")
        once = lambda: _images(spec, path, listing.images, on_skip)  # noqa: E731
    else:
        _check_file(spec, path)
        if path.suffix.lower() == SPLIT_SUFFIX:
            once = _split(path)
        elif _is_image(path):
            extent = read_extent(path)
            if (count := extent.frames or extent.seen) > 1:
                return _animation(path, count, on_skip, loop)
            image = _image(path)
            once = lambda: iter([image])  # noqa: E731
        else:
            return _video_file(path, on_skip, loop)
    frames = _repeated(once, loop)
    return Source(frames, fps), frames


def _check_file(spec: str, path: Path) -> None:
    """Raise SourceError unless a path is a plain file."""
    mode = _mode(path)
    if mode is None:
        raise SourceError(f"there is no source '{shortened(spec, LONGEST_SHOWN)}'; {_choices()}")
    if not stat.S_ISREG(mode):
        raise SourceError(f"{spec} is neither a plain file nor a folder; {_choices()}")


def _mode(path: Path) -> int | None:
    """Return the type bits of what a path leads to; `None` if it leads nowhere."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


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


def _video_file(path: Path, on_skip: Skip, loop: bool) -> tuple[Source, Frames]:
    video, images = open_video_file(path, lambda reason: on_skip(f"{path.name}:{reason}"), loop)
    frames = _named(path.name, images)
    return Source(frames, video.fps, video=video), frames


def _animation(path: Path, frames: int, on_skip: Skip, loop: bool) -> tuple[Source, Frames]:
    """Open an animated image as the video that it is, never its first frame alone."""
    with path.open("rb") as file:
        readable = file.read(4) in READABLE_ANIMATIONS
    if not readable:
        raise SourceError(
            f"{path} is an animation of {frames} frames, of which OpenCV reads one; convert it to MP4 (H.264)"
        )
    return _video_file(path, on_skip, loop)


def _video_url(spec: str, on_skip: Skip, loop: bool, timeout_s: float) -> tuple[Source, Frames]:
    url = _url(spec)
    name = PurePosixPath(url.path).name
    video, images = open_video_url(
        spec,
        _without_secrets(spec),
        _suffix(url),
        timeout_s,
        lambda: _why_no_video(spec, timeout_s),
        lambda reason: on_skip(f"{name}:{reason}"),
        loop,
    )
    frames = _named(name, images)
    return Source(frames, video.fps, video=video), frames


def _why_no_video(spec: str, timeout_s: float) -> str:
    # Only a source that failed needs it.
    from runtime.video.reachability import why_no_video

    return why_no_video(_url(spec), timeout_s)


def _named(name: str, images: Images) -> Frames:
    with closing(images):
        for index, image in images:
            yield Frame(image, f"{name}:{index}")


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
