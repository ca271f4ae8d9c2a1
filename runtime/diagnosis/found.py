"""The state of a machine and a bundle, before any judgement."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle.manifest import Artifact, read_manifest, verified_file
from runtime.core.errors import FocalEdgeError
from runtime.core.machine import Cpu, Memory, read_cpu, read_memory
from runtime.diagnosis.probes import (
    OPENCV_FACTS,
    CameraDevice,
    OpenCv,
    Package,
    find_cameras,
    find_package,
    parse_opencv,
)
from runtime.engines.registry import ENGINES, INTERPRETERS

# By top-level module: the distributions, and the program that tries the package, `None` if that is slow.
PACKAGES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "numpy": (("numpy",), "import numpy"),
    "cv2": (("opencv-python", "opencv-python-headless", "opencv-contrib-python"), OPENCV_FACTS),
    "tqdm": (("tqdm",), "import tqdm"),
    **{
        each.package: (each.distributions, f"from {each.module} import {each.attribute}" if each.quick_import else None)
        for each in INTERPRETERS
    },
    "aiohttp": (("aiohttp",), "import aiohttp"),
}


@dataclass(frozen=True)
class ArtifactState:
    """One artifact of the bundle.

    Attributes:
        file: its name.
        precision: `"float32"` or `"int8"`.
        engine: a key of `ENGINES`.
        runs_on: the interpreter that runs it and its version; `None` without one.
        problem: "" if the file matches the manifest.
    """

    file: str
    precision: str
    engine: str
    runs_on: str | None
    problem: str

    @property
    def usable(self) -> bool:
        """`True` if an undamaged file has an interpreter."""
        return bool(self.runs_on) and not self.problem


@dataclass(frozen=True)
class BundleState:
    """The bundle; `problem` is "" if its manifest could be read."""

    folder: str
    problem: str
    artifacts: tuple[ArtifactState, ...]

    @property
    def default(self) -> ArtifactState | None:
        """The artifact that the demo runs without options: the first int8 one, if it is usable."""
        first = next((each for each in self.artifacts if each.precision == "int8"), None)
        return first if first and first.usable else None


@dataclass(frozen=True)
class Found:
    """The state of the machine.

    Attributes:
        python: the version.
        system: the kernel's name and release.
        cpu: the processor.
        memory: `None` where the kernel does not list it.
        packages: by top-level module.
        opencv: `None` if OpenCV does not work.
        cameras: those that capture images; `None` on systems other than Linux.
        display: where a window would open, "" for nowhere.
        bundle: the bundle.
    """

    python: str
    system: str
    cpu: Cpu
    memory: Memory | None
    packages: dict[str, Package]
    opencv: OpenCv | None
    cameras: tuple[CameraDevice, ...] | None
    display: str
    bundle: BundleState


def examine(bundle: Path) -> Found:
    """Examine this machine and a bundle; a broken package or device does not stop it.

    Args:
        bundle: folder with manifest.json and artifacts.
    """
    # Threads, because each package is tried in its own process.
    with ThreadPoolExecutor() as pool:
        tried = pool.map(lambda module: find_package(module, *PACKAGES[module]), PACKAGES)
        results = dict(zip(PACKAGES, tried, strict=True))
    packages = {module: package for module, (package, _) in results.items()}
    return Found(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        cpu=read_cpu(),
        memory=read_memory(),
        packages=packages,
        opencv=parse_opencv(results["cv2"][1]) if packages["cv2"].works else None,
        cameras=tuple(find_cameras()) if sys.platform == "linux" else None,
        display=find_display(sys.platform, os.environ),
        bundle=examine_bundle(bundle, packages),
    )


def find_display(system: str, environment: Mapping[str, str]) -> str:
    """Return where a window would open, "" for nowhere; systems other than Linux always have a display."""
    if system != "linux":
        return system
    return next((environment[name] for name in ("WAYLAND_DISPLAY", "DISPLAY") if environment.get(name)), "")


def examine_bundle(folder: Path, packages: Mapping[str, Package]) -> BundleState:
    """Check a bundle's manifest and files, and find the interpreter of each.

    Args:
        folder: the bundle.
        packages: by top-level module.
    """
    try:
        manifest = read_manifest(folder)
    except FocalEdgeError as error:
        return BundleState(str(folder), str(error), ())
    return BundleState(str(folder), "", tuple(_artifact_state(folder, each, packages) for each in manifest.artifacts))


def _artifact_state(folder: Path, artifact: Artifact, packages: Mapping[str, Package]) -> ArtifactState:
    try:
        verified_file(folder, artifact)
        problem = ""
    except FocalEdgeError as error:
        problem = str(error)
    candidates = [packages[each.package] for each in ENGINES[artifact.engine].interpreters]
    runs_on = next((f"{package.name} {package.version}" for package in candidates if package.usable), None)
    return ArtifactState(artifact.file, artifact.precision, artifact.engine, runs_on, problem)
