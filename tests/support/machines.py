"""Descriptions of machines, for tests of the doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runtime.core.machine import Cpu, Memory
from runtime.diagnosis.found import PACKAGES, Found, examine_bundle
from runtime.diagnosis.probes import CameraDevice, OpenCv, Package

ALL = {
    module: Package(names[0], "1.2.3", works=None if program is None else True)
    for module, (names, program) in PACKAGES.items()
}
DEVICE = {module: replace(package, version=None, works=None) for module, package in ALL.items()} | {
    module: ALL[module] for module in ("numpy", "cv2", "tqdm", "ai_edge_litert", "aiohttp")
}


def complete_machine(bundle: Path) -> Found:
    """Return a device that lacks nothing."""
    return Found(
        python="3.11.9",
        system="Linux 6.1",
        cpu=Cpu("A CPU", "aarch64", 4, ("NEON", "dotprod")),
        memory=Memory(4_000_000_000, 3_000_000_000),
        packages=DEVICE,
        opencv=OpenCv("4.10.0", "QT5", ffmpeg=True, gstreamer=False, v4l=True),
        cameras=(CameraDevice("/dev/video0", "A camera", accessible=True),),
        display=":0",
        bundle=examine_bundle(bundle, DEVICE),
    )


def without(found: Found, *modules: str) -> Found:
    """Return the machine without some packages, by top-level module."""
    packages = found.packages | {module: replace(ALL[module], version=None, works=None) for module in modules}
    return replace(found, packages=packages, bundle=examine_bundle(Path(found.bundle.folder), packages))
