"""Probes report a broken package or device and never crash."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import pytest

from runtime.diagnosis.probes import (
    OPENCV_FACTS,
    CameraDevice,
    OpenCv,
    Package,
    find_cameras,
    find_package,
    parse_opencv,
    try_program,
)

HEADLESS = """\
4.10.0
  GUI:                           NONE

  Video I/O:
    DC1394:                      NO
    FFMPEG:                      YES
      avcodec:                   YES (59.37.100)
    GStreamer:                   NO
    v4l/v4l2:                    YES (linux/videodev2.h)
"""
DEBIAN = """\
4.6.0
  GUI:                           GTK3
    GTK+:                        YES (ver 3.24.36)
  Video I/O:
    FFMPEG:                      NO
    GStreamer:                   YES (1.22.0)
"""
CAPTURE, OUTPUT, CONVERT = 0x1, 0x2, 0x8000


def test_opencv_build_information_is_parsed() -> None:
    assert parse_opencv(HEADLESS) == OpenCv("4.10.0", gui="", ffmpeg=True, gstreamer=False, v4l=True)
    assert parse_opencv(DEBIAN) == OpenCv("4.6.0", gui="GTK3", ffmpeg=False, gstreamer=True, v4l=False)
    assert parse_opencv("") == OpenCv("", gui="", ffmpeg=False, gstreamer=False, v4l=False)


def test_the_installed_opencv_is_parsed() -> None:
    reason, printed = try_program(OPENCV_FACTS)
    found = parse_opencv(printed)
    assert (reason, found.version) == ("", cv2.__version__)
    assert found.ffmpeg == ("FFMPEG" in _video_backends())


def _video_backends() -> list[str]:
    return [cv2.videoio_registry.getBackendName(each) for each in cv2.videoio_registry.getStreamBackends()]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it was ended by SIGILL"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_broken_program_is_reported(program: str, reason: str) -> None:
    assert try_program(program) == (reason, "")


def test_a_hanging_program_is_reported() -> None:
    assert try_program("import time; time.sleep(30)", timeout_s=0.2) == ("it did not finish in 0.2 s", "")


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    package, _ = find_package("broken_one", ("broken-one",), "import broken_one")
    assert package.works is False
    assert package.reason == "ImportError: libGL.so.1: cannot open shared object file"
    assert find_package("broken_one", ("broken-one",), None) == (Package("broken-one", "unknown"), "")
    assert find_package("nowhere", ("no-where",), "import nowhere") == (Package("no-where", None), "")
    package, printed = find_package("tqdm", ("tqdm",), "print('here')")
    assert (package.works, printed) == (True, "here\n")


def capability(name: bytes, own: int) -> bytes:
    """Return a device's reply; the field before its own capabilities has all of the driver's."""
    return struct.pack("=16s32s32sIII12x", b"driver", name, b"bus", 1, CAPTURE | OUTPUT | CONVERT, own)


def test_only_devices_that_capture_images_are_cameras(tmp_path: Path) -> None:
    replies = {
        "video0": capability(b"A camera", CAPTURE),
        "video2": capability(b"Its metadata", 0x800000),
        "video10": capability(b"An encoder", CONVERT | CAPTURE),
        "video9": PermissionError("not yours"),
        "video11": OSError("no such device"),
    }
    for name in [*replies, "videodev"]:
        (tmp_path / name).touch()

    def ask(device: str) -> bytes:
        reply = replies[Path(device).name]
        if isinstance(reply, OSError):
            raise reply
        return reply

    assert find_cameras(tmp_path, ask) == [
        CameraDevice(str(tmp_path / "video0"), "A camera", accessible=True),
        CameraDevice(str(tmp_path / "video9"), "", accessible=False),
    ]


def test_a_file_is_not_a_camera(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    assert find_cameras(tmp_path) == []
