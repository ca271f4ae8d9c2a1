"""Probe packages and cameras; a broken one gives a result, not a crash."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.core.machine import installed_version

IMPORT_TIMEOUT_S = 60.0
OPENCV_FACTS = "import cv2; print(cv2.__version__); print(cv2.getBuildInformation())"
# linux/videodev2.h: the request, the size of its reply, the place of the device's own capabilities in it, and the
# flags of a device that captures images or only converts them.
VIDIOC_QUERYCAP = 0x80685600
QUERYCAP_BYTES = 104
CARD = slice(16, 48)
DEVICE_CAPS_AT = 88
CAPTURES = 0x1 | 0x1000
CONVERTS = 0x8000 | 0x4000


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        name: its distribution.
        version: `None` if not installed.
        works: `True` if it can be imported; `None` if that was not tried.
        reason: why the import fails.
    """

    name: str
    version: str | None
    works: bool | None = None
    reason: str = ""

    @property
    def usable(self) -> bool:
        """`True` if it works, or is installed and was not tried."""
        return self.version is not None and self.works is not False


@dataclass(frozen=True)
class OpenCv:
    """The features that OpenCV was built with; `gui` is its window toolkit, "" for none."""

    version: str
    gui: str
    ffmpeg: bool
    gstreamer: bool
    v4l: bool


@dataclass(frozen=True)
class CameraDevice:
    """A video device that captures images; `name` is "" if the user may not open it."""

    device: str
    name: str
    accessible: bool


def find_package(module: str, distributions: tuple[str, ...], program: str | None) -> tuple[Package, str]:
    """Look for a package and try it in its own process, which may crash without harm.

    Args:
        module: its top-level module.
        distributions: the distributions that may contain it, the usual one first.
        program: Python code to run; `None` tries nothing.

    Returns:
        The package and the program's output.
    """
    number = installed_version(module, distributions)
    if number is None or program is None:
        return Package(distributions[0], number), ""
    reason, printed = try_program(program)
    return Package(distributions[0], number, works=not reason, reason=reason), printed


def try_program(program: str, timeout_s: float = IMPORT_TIMEOUT_S) -> tuple[str, str]:
    """Run a Python program in its own process, with the module path of this one.

    Args:
        program: Python code.
        timeout_s: when to stop it, in seconds.

    Returns:
        Why it failed, or "", and its output.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        finished = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"it did not finish in {timeout_s:g} s", ""
    except OSError as error:
        return f"no process can be started: {error}", ""
    if finished.returncode < 0:
        return f"it was ended by {_signal_name(-finished.returncode)}", ""
    if finished.returncode:
        return (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1], ""
    return "", finished.stdout


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def parse_opencv(printed: str) -> OpenCv:
    """Parse the output of `OPENCV_FACTS`: the version, then `cv2.getBuildInformation()`."""
    version, _, facts = printed.partition("\n")

    def has(name: str) -> bool:
        return bool(re.search(rf"^ +{name}: +YES", facts, re.MULTILINE))

    gui = re.search(r"^ +GUI: +(\S+)", facts, re.MULTILINE)
    toolkit = gui[1] if gui and gui[1] not in ("NONE", "NO") else ""
    return OpenCv(version.strip(), toolkit, has("FFMPEG"), has("GStreamer"), has("v4l/v4l2"))


def find_cameras(folder: Path = Path("/dev"), ask: Callable[[str], bytes] | None = None) -> list[CameraDevice]:
    """List the video devices that capture images; most of a Raspberry Pi's dozen are encoders.

    Args:
        folder: the folder of devices.
        ask: returns a device's reply to `VIDIOC_QUERYCAP`, or raises `OSError`.

    Returns:
        Sorted by number: those that capture images, and those that the user may not open.
    """
    paths = [str(path) for path in folder.glob("video*") if re.fullmatch(r"video\d+", path.name)]
    devices = [
        _camera(path, ask or _query) for path in sorted(paths, key=lambda path: int(path.rpartition("video")[2]))
    ]
    return [device for device in devices if device is not None]


def _camera(device: str, ask: Callable[[str], bytes]) -> CameraDevice | None:
    try:
        reply = ask(device)
    except PermissionError:
        return CameraDevice(device, "", accessible=False)
    # Not a V4L2 device, or just unplugged.
    except OSError:
        return None
    (capabilities,) = struct.unpack_from("=I", reply, DEVICE_CAPS_AT)
    name = reply[CARD].split(b"\0")[0].decode(errors="replace")
    captures = capabilities & CAPTURES and not capabilities & CONVERTS
    return CameraDevice(device, name, accessible=True) if captures else None


def _query(device: str) -> bytes:
    import fcntl

    reply = bytearray(QUERYCAP_BYTES)
    with open(device, "r+b", buffering=0) as file:  # noqa: PTH123 (a device, not a path of ours)
        fcntl.ioctl(file, VIDIOC_QUERYCAP, reply)
    return bytes(reply)
