"""Sources: every kind of source gives its frames, and every failure is one clear error."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.core.errors import SourceError
from runtime.evaluation.split_file import LabelledImages, write_split
from runtime.video.camera import Camera
from runtime.video.sources import Frame, is_live, live_frames, open_source
from tests.support.clips import write_clip

TIMEOUT_S = 0.4


def collect(spec: Path | str, skipped: list[str] | None = None) -> list[Frame]:
    with open_source(str(spec), on_skip=(skipped if skipped is not None else []).append) as source:
        return list(source.frames)


def write_image(path: Path, rgb: tuple[int, int, int]) -> None:
    cv2.imwrite(str(path), np.full((4, 6, 3), rgb[::-1], np.uint8))


def test_sample_is_reproducible_and_moves() -> None:
    first, second = collect("sample"), collect("sample")
    assert len(first) == 120
    assert all(frame.image_rgb.shape == (240, 320, 3) for frame in first)
    assert all(frame.image_rgb.dtype == np.uint8 for frame in first)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image_rgb, two.image_rgb)
    for earlier, later in itertools.pairwise(first):
        moved = np.abs(earlier.image_rgb.astype(int) - later.image_rgb).max(axis=2) > 60
        assert moved.sum() > 20


def test_image_is_rgb(tmp_path: Path) -> None:
    write_image(tmp_path / "red.png", (250, 10, 20))
    (frame,) = collect(tmp_path / "red.png")
    assert frame.name == "red.png"
    assert frame.image_rgb[0, 0].tolist() == [250, 10, 20]


def test_grey_and_transparent_images_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((5, 5), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((5, 5, 4), (3, 2, 1, 128), np.uint8))
    grey, transparent = collect(tmp_path)
    assert grey.image_rgb[0, 0].tolist() == [77, 77, 77]
    assert transparent.image_rgb[0, 0].tolist() == [1, 2, 3]


def test_folder_is_sorted_and_unreadable_files_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_image(tmp_path / "b.png", (0, 0, 255))
    write_image(tmp_path / "a" / "z.JPG", (255, 0, 0))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but no more")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("no image")
    skipped: list[str] = []
    frames = collect(tmp_path, skipped)
    assert [frame.name for frame in frames] == [str(Path("a") / "z.JPG"), "b.png"]
    assert len(skipped) == 2
    assert "broken.png" in skipped[0] and "empty.jpg" in skipped[1]


@pytest.mark.parametrize("names", [[], ["broken.png"], ["notes.txt"]])
def test_folder_without_images(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("no image")
    with pytest.raises(SourceError, match="no readable image"):
        collect(tmp_path)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (32, 24))
    for red in (0, 80, 160, 240):
        writer.write(np.full((24, 32, 3), (0, 0, red), np.uint8))
    writer.release()
    return path


def test_video_gives_every_frame_at_its_rate(video: Path) -> None:
    with open_source(str(video), on_skip=pytest.fail) as source:
        assert source.fps == pytest.approx(12.0)
        frames = list(source.frames)
    assert [frame.name for frame in frames] == [f"clip.avi:{i}" for i in range(4)]
    for frame, red in zip(frames, (0, 80, 160, 240), strict=True):
        assert np.abs(frame.image_rgb[..., 0].astype(int) - red).max() < 12
        assert frame.image_rgb[..., 1:].max() < 12


@pytest.mark.parametrize("content", [b"", b"no video " * 100, b"\xff\xd8\xff\xe0 no JPEG either"])
def test_file_that_is_neither_image_nor_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot be read|cut short"):
        collect(tmp_path / "file.mp4")


def test_missing_file_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no source .*missing\.mp4.*sample"):
        collect(tmp_path / "missing.mp4")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", "names nothing"),
        ("  ", "names nothing"),
        ("a\0b", "names nothing"),
        ("/", "the whole file system"),
        ("//", "the whole file system"),
        ("/tmp/..", "the whole file system"),
        (".", "no readable image"),
        ("\udcff.mp4", "there is no source"),
        ("\udcff ! appsink", "not UTF-8"),
        ("/dev/\udcff", "not UTF-8"),
        ("http://\udcff/a", "not UTF-8"),
        ("x" * 5000, "there is no source 'xxx"),
        ("9" * 5000, "there is no source '999"),
        ("\u0663", "there is no source"),
        ("-1", "there is no source"),
        ("fifo", "fifo is neither a plain file nor a folder"),
        ("socket", "socket is neither a plain file nor a folder"),
        ("loop", "there is no source 'loop'"),
        ("/dev/null", "/dev/null is no camera"),
        ("/dev/zero", "/dev/zero is no camera"),
        ("file:///nothing/a.mp4", "there is no source '/nothing/a.mp4'"),
        ("file://%00", "there is no source"),
        ("concat:a.mp4|b.mp4", "there is no source"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other devices")
def test_what_is_no_source_is_one_error(
    spec: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(SourceError) as caught:
            collect(spec)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_a_file_s_url_is_the_file(video: Path) -> None:
    assert len(collect(f"file://{video}")) == 4


@pytest.mark.parametrize("spec", ["987", "/dev/video987"])
def test_missing_camera_fails_at_once(spec: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(SourceError, match=r"/dev/video987.*devices here.*--source sample"):
        collect(spec)
    assert time.monotonic() - start_s < 1.0


def test_pattern_is_sorted_and_takes_only_images(tmp_path: Path) -> None:
    for name in ("b1.png", "a1.jpg", "a2.png"):
        write_image(tmp_path / name, (9, 9, 9))
    (tmp_path / "a3.txt").touch()
    assert [Path(frame.name).name for frame in collect(tmp_path / "a*")] == ["a1.jpg", "a2.png"]
    assert [Path(frame.name).name for frame in collect(tmp_path / "[b]?.png")] == ["b1.png"]


@pytest.mark.parametrize("pattern", ["nothing*.png", "**png"])
def test_pattern_without_images(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(SourceError, match=r"pattern"):
        collect(tmp_path / pattern)


def test_split_has_its_true_labels(tmp_path: Path) -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    labels = np.array([1, 0])
    write_split(tmp_path / "t.npz", LabelledImages(images, labels, ("p", "q"), ("cat", "dog"), "pets", "test"))
    first, second = collect(tmp_path / "t.npz")
    assert (first.name, first.true_label) == ("test:p", "dog")
    assert (second.name, second.true_label) == ("test:q", "cat")
    np.testing.assert_array_equal(first.image_rgb, images[0])


def test_damaged_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(b"PK no split")
    with pytest.raises(SourceError, match=r"t\.npz is not a readable split file"):
        collect(tmp_path / "t.npz")


def test_sources_that_end_can_loop(tmp_path: Path, video: Path) -> None:
    write_image(tmp_path / "one.png", (1, 2, 3))
    for spec, count in ((str(video), 4), (str(tmp_path / "one.png"), 1), (str(tmp_path), 1)):
        with open_source(spec, on_skip=pytest.fail, loop=True) as source:
            names = [frame.name for frame in itertools.islice(source.frames, 3 * count)]
        assert names == names[:count] * 3
        assert not source.live


@pytest.mark.parametrize(
    ("spec", "live"),
    [
        ("0", True),
        ("/dev/video0", True),
        ("rtsp://camera/stream.mp4", True),
        ("http://camera/mjpeg?name=clip.mp4", True),
        ("http://server/clip.MP4", False),
        ("videotestsrc ! videoconvert ! appsink", True),
        ("/dev/shm/clip.mp4", False),
        ("clip.mp4", False),
        ("sample", False),
        ("C:\\clips\\clip.mp4", False),
    ],
)
def test_is_live(spec: str, live: bool) -> None:
    assert is_live(spec) is live


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
def test_pipelines_need_gstreamer() -> None:
    with pytest.raises(SourceError, match="no GStreamer"):
        collect("videotestsrc ! appsink")


class FakeVideo:
    """A `cv2.VideoCapture` that reads given frames."""

    def __init__(self, frames: list[Any]) -> None:
        self.frames = iter(frames)
        self.released = False

    def read(self) -> tuple[bool, Any]:
        frame = next(self.frames, StopIteration)
        return (False, None) if frame is StopIteration else (True, frame)

    def get(self, _: int) -> float:
        return 25.0

    def release(self) -> None:
        self.released = True


GOOD = np.full((4, 6, 3), 9, np.uint8)
BAD: list[Any] = [
    None,
    np.zeros((0, 6, 3), np.uint8),
    np.zeros((4, 6, 3), np.uint16),
    np.zeros((4, 6, 2), np.uint8),
    np.zeros((4, 6, 3, 1), np.uint8),
]


def test_unusable_frames_of_a_video_are_skipped(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FakeVideo([GOOD, *BAD, GOOD[:2], GOOD[..., 0], GOOD[:, :1]])
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: opened)
    skipped: list[str] = []
    frames = collect(video, skipped)
    assert [frame.image_rgb.shape for frame in frames] == [(4, 6, 3), (2, 6, 3), (4, 6, 3), (4, 1, 3)]
    assert [frame.name for frame in frames] == [f"clip.avi:{index}" for index in (0, 6, 7, 8)]
    assert len(skipped) == len(BAD)
    assert "clip.avi:3" in skipped[2] and "uint16" in skipped[2]
    assert opened.released


def test_a_video_without_usable_frames_is_an_error(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FakeVideo([BAD[1]] * 500)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: opened)
    with pytest.raises(SourceError, match="100 unusable frames in a row"):
        collect(video, [])
    assert opened.released


def test_leaving_early_closes_the_video(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FakeVideo([GOOD] * 9)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: opened)
    with open_source(str(video), on_skip=pytest.fail) as source:
        next(source.frames)
        assert not opened.released
    assert opened.released


class FakeCapture:
    """A camera that reads grey values, images, `None` for a failed read, or the results of callables."""

    def __init__(self, frames: Iterator[Any], opened: bool = True) -> None:
        self.frames = frames
        self.opened = opened
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        time.sleep(0.002)
        value = next(self.frames, None)
        if callable(value):
            value = value()
        if value is None or isinstance(value, np.ndarray):
            return value is not None, value
        return True, np.full((2, 2, 3), value, np.uint8)

    def release(self) -> None:
        self.released = True


def fake_camera(captures: list[FakeCapture], reconnect_s: float = 0.0) -> Camera:
    """A camera that opens these captures in turn, and then the last one again and again."""
    order = itertools.chain(captures, itertools.repeat(captures[-1]))
    return Camera("fake", lambda: next(order), timeout_s=TIMEOUT_S, reconnect_s=reconnect_s)


def read_until_error(camera: Camera) -> tuple[list[int], str, float]:
    """The grey values seen, the error message, and the time from the last frame to the error, in seconds."""
    seen: list[int] = []
    last_s = time.monotonic()
    with pytest.raises(SourceError) as caught, camera:
        for frame in camera:
            seen.append(int(frame[0, 0, 0]))
            last_s = time.monotonic()
    return seen, str(caught.value), time.monotonic() - last_s


def test_camera_that_cannot_be_opened_fails_at_once() -> None:
    capture = FakeCapture(iter([]), opened=False)
    seen, message, waited_s = read_until_error(fake_camera([capture]))
    assert seen == []
    assert "cannot be opened" in message
    assert waited_s < TIMEOUT_S
    assert capture.released


def test_a_hung_read_times_out() -> None:
    forever = threading.Event()
    try:
        seen, message, waited_s = read_until_error(fake_camera([FakeCapture(iter([1, forever.wait]))]))
    finally:
        forever.set()
    assert seen == [1]
    assert "gave no frame for 0.4 s" in message
    assert TIMEOUT_S * 0.9 < waited_s < TIMEOUT_S + 3.0


def test_failing_reads_back_off_and_time_out() -> None:
    captures: list[FakeCapture] = []

    def reopen() -> FakeCapture:
        captures.append(FakeCapture(iter([7] if not captures else [])))
        return captures[-1]

    seen, message, _ = read_until_error(Camera("fake", reopen, timeout_s=TIMEOUT_S))
    assert seen == [7]
    assert "gave no frame" in message
    assert 2 <= len(captures) <= 5
    assert all(capture.released for capture in captures)


def test_camera_comes_back_after_a_failed_read() -> None:
    camera = fake_camera([FakeCapture(iter([1, None])), FakeCapture(itertools.cycle([2, 3]))])
    seen: set[int] = set()
    with camera:
        for frame in camera:
            seen.add(int(frame[0, 0, 0]))
            if seen >= {1, 2, 3}:
                break
    assert seen == {1, 2, 3}


def test_a_frozen_image_reopens_the_device() -> None:
    # `read` of an unplugged camera can go on succeeding with the last frame.
    frozen = FakeCapture(itertools.repeat(5))
    seen, message, _ = read_until_error(fake_camera([frozen, FakeCapture(iter([]), opened=False)]))
    assert set(seen) == {5}
    assert "gave no frame" in message
    assert frozen.released


def test_a_hung_read_is_abandoned_and_the_device_reopened() -> None:
    forever = threading.Event()
    hung = FakeCapture(iter([1, forever.wait]))
    seen: list[int] = []
    with fake_camera([hung, FakeCapture(itertools.cycle([2, 3]))], reconnect_s=10.0) as camera:
        start_s = time.monotonic()
        for frame in camera:
            seen.append(int(frame[0, 0, 0]))
            if seen[-1] == 3:
                break
        assert TIMEOUT_S * 0.9 < time.monotonic() - start_s < TIMEOUT_S + 2.0
    assert seen[0] == 1
    assert hung.released is False
    forever.set()


def test_the_late_frame_of_a_hung_read_is_discarded() -> None:
    hung, forever = threading.Event(), threading.Event()
    captures = [FakeCapture(iter([1, lambda: 9 * hung.wait()])), FakeCapture(iter([2, forever.wait]))]
    with fake_camera(captures, reconnect_s=10.0) as camera:
        frames = iter(camera)
        assert [int(next(frames)[0, 0, 0]) for _ in range(2)] == [1, 2]
        hung.set()
        assert camera.wait(0.15) is None
        assert captures[0].released
        forever.set()


def test_reconnecting_is_reported() -> None:
    gone = [FakeCapture(iter([]), opened=False) for _ in range(2)]
    camera = fake_camera([FakeCapture(iter([1])), *gone, FakeCapture(itertools.cycle([2, 3]))], reconnect_s=10.0)
    troubles: list[str] = []
    with camera:
        while (frame := camera.wait(0.02)) is None or frame[0, 0, 0] == 1:
            troubles.append(camera.trouble())
        assert camera.trouble() == ""
    assert any("reconnecting to fake, 0 of 10 s (it cannot be opened)" in trouble for trouble in troubles)
    assert all(capture.released for capture in gone)


def test_a_camera_that_stays_away_fails_in_time() -> None:
    camera = fake_camera([FakeCapture(iter([1])), FakeCapture(iter([]), opened=False)], reconnect_s=0.7)
    seen, message, waited_s = read_until_error(camera)
    assert seen == [1]
    assert "gave no frame for 0.7 s (it cannot be opened)" in message
    assert 0.6 < waited_s < 2.0


def test_a_camera_without_a_first_frame_fails_early() -> None:
    seen, message, waited_s = read_until_error(fake_camera([FakeCapture(iter([]))], reconnect_s=60.0))
    assert seen == []
    assert "gave no frame for 0.4 s" in message
    assert waited_s < 3.0


def test_unusable_frames_of_a_camera_are_skipped() -> None:
    wide, grey = np.full((2, 8, 3), 5, np.uint8), np.full((3, 1), 6, np.uint8)
    transparent = np.full((2, 2, 4), 7, np.uint8)
    read = iter([4, *BAD[1:], wide, *BAD[1:], grey, transparent])
    shapes: list[tuple[int, ...]] = []
    with fake_camera([FakeCapture(itertools.chain(read, itertools.cycle([1, 2])))]) as camera:
        for frame in camera:
            shapes.append(frame.shape)
            if frame[0, 0, 0] == 2:
                break
    assert set(shapes) <= {(2, 2, 3), (2, 8, 3), (3, 1, 3)}


def test_a_camera_without_usable_frames_reports_what_it_gives() -> None:
    seen, message, _ = read_until_error(fake_camera([FakeCapture(itertools.repeat(BAD[2]))]))
    assert seen == []
    assert "gave no frame for 0.4 s" in message and "uint16" in message


def test_a_stream_may_stand_still() -> None:
    capture = FakeCapture(itertools.repeat(5))
    with Camera("stream", lambda: capture, timeout_s=0.05, may_stand_still=True) as camera:
        until_s = time.monotonic() + 0.3
        for _ in camera:
            if time.monotonic() > until_s:
                break
        assert not capture.released


def test_dropped_frames_are_counted() -> None:
    capture = FakeCapture(iter(range(1, 21)))
    with fake_camera([capture], reconnect_s=5.0) as camera:
        seen = 0
        while (frame := camera.wait(0.3)) is not None:
            seen += 1
            if frame[0, 0, 0] == 20:
                break
            time.sleep(0.01)
        assert seen + camera.dropped_frames == 20
        assert camera.dropped_frames > 0


def test_only_the_latest_frame_is_kept() -> None:
    capture = FakeCapture(itertools.chain(range(1, 30), itertools.repeat(30)))
    seen: list[int] = []
    with fake_camera([capture]) as camera:
        for frame in camera:
            seen.append(int(frame[0, 0, 0]))
            if seen[-1] == 30:
                break
            time.sleep(0.05)
    assert seen == sorted(set(seen))
    assert len(seen) < 15


def test_leaving_closes_the_device() -> None:
    capture = FakeCapture(itertools.cycle(range(200)))
    with fake_camera([capture]) as camera:
        next(iter(camera))
    assert capture.released


def test_camera_frames_become_rgb() -> None:
    image = np.full((2, 2, 3), (1, 2, 3), np.uint8)
    with fake_camera([FakeCapture(itertools.repeat(image))]) as camera:
        frame = next(live_frames("camera 0", camera, None))
    assert frame.image_rgb[0, 0].tolist() == [3, 2, 1]
    assert frame.name == "camera 0:0"


def test_a_silent_camera_repeats_its_last_frame_as_stalled() -> None:
    with fake_camera([FakeCapture(iter([8]))], 9.0) as camera:
        frames = list(itertools.islice(live_frames("camera 0", camera, 0.05), 5))
    new = [frame for frame in frames if not frame.stalled]
    assert [int(frame.image_rgb[0, 0, 0]) for frame in new] == [8]
    assert "reconnecting to fake" in frames[-1].stalled
    assert frames[-1].name == "camera 0:0"


@contextmanager
def mjpeg_server(value: int, port: int = 0) -> Iterator[int]:
    """Serve an endless stream of JPEGs that flicker around `value`, like a network camera; yields the port."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for index in itertools.count():
                if stopped.wait(0.01):
                    return
                jpeg = cv2.imencode(".jpg", np.full((32, 32, 3), value + index % 2, np.uint8))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_stream_that_disappears_and_comes_back() -> None:
    with mjpeg_server(40) as port:
        opened = open_source(f"http://user:secret@127.0.0.1:{port}/live", on_skip=pytest.fail, timeout_s=2, tick_s=0.1)
        source = opened.__enter__()
        first = next(frame for frame in source.frames if not frame.stalled)
    try:
        assert abs(int(first.image_rgb[0, 0, 0]) - 40) < 4
        assert first.name.startswith(f"http://127.0.0.1:{port}/live:")
        stalled = next(frame for frame in source.frames if "reconnecting" in frame.stalled)
        assert "secret" not in stalled.stalled
        with mjpeg_server(200, port):
            back = next(frame for frame in source.frames if not frame.stalled and frame.image_rgb[0, 0, 0] > 120)
        assert abs(int(back.image_rgb[0, 0, 0]) - 200) < 4
    finally:
        opened.__exit__(None, None, None)


def test_a_missing_stream_is_an_error() -> None:
    start_s = time.monotonic()
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/live cannot be opened"):
        collect("http://127.0.0.1:9/live")
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize(
    "name", [b"Stra\xdfe", b"line\nbreak", b"x" * 250, b"100%03d [1]", b"a:b", b"\x1b[31m", b"-rf"], ids=ascii
)
def test_a_video_or_image_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path(os.fsdecode(name))):
        folder.mkdir(exist_ok=True)
        write_clip(tmp_path / "clip.avi", 3)
        video = (tmp_path / "clip.avi").rename(folder / f"{os.fsdecode(name)}.avi")
        image = folder / f"{os.fsdecode(name)}.png"
        image.write_bytes(cv2.imencode(".png", np.full((4, 5, 3), 9, np.uint8))[1].tobytes())
        for path, count in ((video, 3), (image, 1)):
            with open_source(str(path), on_skip=pytest.fail) as source:
                assert len(list(source.frames)) == count
        with open_source(str(video), on_skip=pytest.fail, loop=True) as source:
            assert len(list(itertools.islice(source.frames, 7))) == 7
