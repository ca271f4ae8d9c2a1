"""What can be found out about packages and cameras without being brought down by one that is broken."""

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
# linux/videodev2.h: the request, the size of its answer, where the device's own capabilities are in it, and those
# of a device that gives images or only converts them.
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
        name: what pip calls it.
        version: `None` if it is not installed.
        works: whether it can be imported; `None` if that was not tried.
        reason: why it cannot.
    """

    name: str
    version: str | None
    works: bool | None = None
    reason: str = ""


@dataclass(frozen=True)
class OpenCv:
    """What OpenCV was built with; `gui` is its window toolkit, "" for none."""

    version: str
    gui: str
    ffmpeg: bool
    gstreamer: bool
    v4l: bool


@dataclass(frozen=True)
class CameraDevice:
    """A video device that gives images; `name` is its maker's, "" where it may not be opened to ask."""

    device: str
    name: str
    accessible: bool


def find_package(module: str, distributions: tuple[str, ...], program: str | None) -> tuple[Package, str]:
    """Look for a package and try it in a process of its own, which may crash without harm.

    Args:
        module: what is imported.
        distributions: those that may have brought it, the usual one first.
        program: what to run there; `None` tries nothing.

    Returns:
        The package, and what the program printed.
    """
    number = installed_version(module, distributions)
    if number is None or program is None:
        return Package(distributions[0], number), ""
    reason, printed = try_program(program)
    return Package(distributions[0], number, works=not reason, reason=reason), printed


def try_program(program: str) -> tuple[str, str]:
    """Run a Python program in a process of its own, on this one's path.

    Returns:
        Why it failed, "" if it did not, and what it printed.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        finished = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=IMPORT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"it did not finish in {IMPORT_TIMEOUT_S:g} s", ""
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
    """Read what `OPENCV_FACTS` printed: the version, then `cv2.getBuildInformation()`."""
    version, _, facts = printed.partition("\n")

    def has(name: str) -> bool:
        return bool(re.search(rf"^ +{name}: +YES", facts, re.MULTILINE))

    gui = re.search(r"^ +GUI: +(\S+)", facts, re.MULTILINE)
    toolkit = gui[1] if gui and gui[1] not in ("NONE", "NO") else ""
    return OpenCv(version.strip(), toolkit, has("FFMPEG"), has("GStreamer"), has("v4l/v4l2"))


def find_cameras(folder: Path = Path("/dev"), ask: Callable[[str], bytes] | None = None) -> list[CameraDevice]:
    """List the video devices that give images; of a Raspberry Pi's dozen, most are encoders.

    Args:
        folder: where the devices are.
        ask: gives the answer of a device to `VIDIOC_QUERYCAP`, or raises `OSError`.

    Returns:
        In the order of their numbers: those that give images, and those that may not be asked.
    """
    paths = [str(path) for path in folder.glob("video*") if re.fullmatch(r"video\d+", path.name)]
    devices = [
        _camera(path, ask or _query) for path in sorted(paths, key=lambda path: int(path.rpartition("video")[2]))
    ]
    return [device for device in devices if device is not None]


def _camera(device: str, ask: Callable[[str], bytes]) -> CameraDevice | None:
    try:
        answer = ask(device)
    except PermissionError:
        return CameraDevice(device, "", accessible=False)
    # Not a V4L2 device, or one that has just been unplugged.
    except OSError:
        return None
    (capabilities,) = struct.unpack_from("=I", answer, DEVICE_CAPS_AT)
    name = answer[CARD].split(b"\0")[0].decode(errors="replace")
    gives_images = capabilities & CAPTURES and not capabilities & CONVERTS
    return CameraDevice(device, name, accessible=True) if gives_images else None


def _query(device: str) -> bytes:
    import fcntl

    answer = bytearray(QUERYCAP_BYTES)
    with open(device, "r+b", buffering=0) as file:  # noqa: PTH123 (a device, not a path of ours)
        fcntl.ioctl(file, VIDIOC_QUERYCAP, answer)
    return bytes(answer)
