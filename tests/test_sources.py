"""Sources: every kind of file gives its frames, and every kind of failure ends in one clear error."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.camera import Camera
from runtime.errors import SourceError
from runtime.sources import Frame, open_source

TIMEOUT_S = 0.4


def collect(spec: Path | str, skipped: list[str] | None = None) -> list[Frame]:
    with open_source(str(spec), on_skip=(skipped if skipped is not None else []).append) as source:
        return list(source.frames)


def write_picture(path: Path, rgb: tuple[int, int, int]) -> None:
    cv2.imwrite(str(path), np.full((4, 6, 3), rgb[::-1], np.uint8))


def test_sample_is_the_same_every_time_and_moves() -> None:
    first, second = collect("sample"), collect("sample")
    assert len(first) == 120
    assert all(frame.image_rgb.shape == (240, 320, 3) for frame in first)
    assert all(frame.image_rgb.dtype == np.uint8 for frame in first)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image_rgb, two.image_rgb)
    for earlier, later in itertools.pairwise(first):
        moved = np.abs(earlier.image_rgb.astype(int) - later.image_rgb).max(axis=2) > 60
        assert moved.sum() > 20


def test_picture_is_rgb(tmp_path: Path) -> None:
    write_picture(tmp_path / "red.png", (250, 10, 20))
    (frame,) = collect(tmp_path / "red.png")
    assert frame.name == "red.png"
    assert frame.image_rgb[0, 0].tolist() == [250, 10, 20]


def test_grey_and_transparent_pictures_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((5, 5), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((5, 5, 4), (3, 2, 1, 128), np.uint8))
    grey, transparent = collect(tmp_path)
    assert grey.image_rgb[0, 0].tolist() == [77, 77, 77]
    assert transparent.image_rgb[0, 0].tolist() == [1, 2, 3]


def test_folder_is_sorted_and_skips_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_picture(tmp_path / "b.png", (0, 0, 255))
    write_picture(tmp_path / "a" / "z.JPG", (255, 0, 0))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but no more")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("no picture")
    skipped: list[str] = []
    frames = collect(tmp_path, skipped)
    assert [frame.name for frame in frames] == [str(Path("a") / "z.JPG"), "b.png"]
    assert len(skipped) == 2
    assert "broken.png" in skipped[0] and "empty.jpg" in skipped[1]


@pytest.mark.parametrize("names", [[], ["broken.png"], ["notes.txt"]])
def test_folder_without_pictures(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("no picture")
    with pytest.raises(SourceError, match="no readable picture"):
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
def test_file_that_is_neither_picture_nor_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.mp4").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        collect(tmp_path / "file.mp4")


def test_missing_file_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no source .*missing\.mp4.*sample"):
        collect(tmp_path / "missing.mp4")


@pytest.mark.parametrize("spec", ["987", "/dev/video987"])
def test_missing_camera_fails_at_once(spec: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(SourceError, match=r"/dev/video987.*devices here.*--source sample"):
        collect(spec)
    assert time.monotonic() - start_s < 1.0


class FakeCapture:
    """A camera whose `frames` are values to paint, `None` for a failed read, or a callable to wait for."""

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
        return (False, None) if value is None else (True, np.full((2, 2, 3), value, np.uint8))

    def release(self) -> None:
        self.released = True


def fake_camera(captures: list[FakeCapture]) -> Camera:
    """A camera that opens these captures in turn, the last one again and again."""
    order = itertools.chain(captures, itertools.repeat(captures[-1]))
    return Camera("fake", lambda: next(order), timeout_s=TIMEOUT_S)


def read_until_error(camera: Camera) -> tuple[list[int], str, float]:
    """The values seen, the error, and how long after the last frame it came, in seconds."""
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


def test_hung_read_meets_the_watchdog() -> None:
    forever = threading.Event()
    try:
        seen, message, waited_s = read_until_error(fake_camera([FakeCapture(iter([1, forever.wait]))]))
    finally:
        forever.set()
    assert seen == [1]
    assert "gave no frame for 0.4 s" in message
    assert TIMEOUT_S * 0.9 < waited_s < TIMEOUT_S + 3.0


def test_reads_that_keep_failing_meet_the_watchdog_and_back_off() -> None:
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


def test_frozen_picture_is_reopened() -> None:
    # As an unplugged camera does: `read` goes on "succeeding" with the last frame.
    frozen = FakeCapture(itertools.repeat(5))
    seen, message, _ = read_until_error(fake_camera([frozen, FakeCapture(iter([]), opened=False)]))
    assert set(seen) == {5}
    assert "gave no frame" in message
    assert frozen.released


def test_only_the_newest_frame_is_kept() -> None:
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


def test_camera_frames_become_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    bgr: Callable[[], NDArray[np.uint8]] = lambda: np.full((2, 2, 3), (1, 2, 3), np.uint8)  # noqa: E731
    capture = FakeCapture(iter([]))
    monkeypatch.setattr(capture, "read", lambda: (True, bgr()))
    monkeypatch.setattr("runtime.sources._camera", lambda spec, timeout_s, reconnect_s: fake_camera([capture]))
    with open_source("0", on_skip=pytest.fail) as source:
        frame = next(source.frames)
    assert frame.image_rgb[0, 0].tolist() == [3, 2, 1]
    assert frame.name == "camera 0:0"
