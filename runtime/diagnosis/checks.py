"""Checks of a machine: what is missing or broken, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime.diagnosis.found import Found
from runtime.engines.registry import ENGINES, INTERPRETERS

OLDEST_PYTHON = (3, 11)
# By top-level module, what pip installs.
NEEDED = {"numpy": "numpy", "cv2": "opencv-python-headless", "tqdm": "tqdm"}


@dataclass(frozen=True)
class Problem:
    """Something missing or broken; `blocking` if the demo cannot run without it."""

    what: str
    remedy: str
    blocking: bool


def _blocking(what: str, remedy: str) -> Problem:
    return Problem(what, remedy, blocking=True)


def _note(what: str, remedy: str) -> Problem:
    return Problem(what, remedy, blocking=False)


def _check_python(found: Found) -> Iterator[Problem]:
    if tuple(int(part) for part in found.python.split(".")[:2]) < OLDEST_PYTHON:
        yield _blocking(f"Python is {found.python}", "install Python 3.11")


def _check_packages(found: Found) -> Iterator[Problem]:
    for module, distribution in NEEDED.items():
        package = found.packages[module]
        if package.version is None:
            yield _blocking(f"{package.name} is not installed", f"pip install {distribution}")
        elif package.works is False:
            remedy = f"pip install --force-reinstall {distribution}"
            if module == "cv2" and "cannot open shared object" in package.reason:
                remedy = "apt-get install libgl1 libglib2.0-0, or install opencv-python-headless, not opencv-python"
            yield _blocking(f"{package.name}: {package.reason}", remedy)


def _check_interpreters(found: Found) -> Iterator[Problem]:
    usual = INTERPRETERS[0].distributions[0]
    packages = [found.packages[each.package] for each in INTERPRETERS]
    if not any(package.usable for package in packages):
        yield _blocking("no interpreter for the artifacts works", f"pip install {usual}")
    for package in packages:
        if package.works is False:
            instead = "" if package.name == usual else f", or remove it and install {usual}"
            yield _note(f"{package.name}: {package.reason}", f"pip install --force-reinstall {package.name}{instead}")


def _check_bundle(found: Found) -> Iterator[Problem]:
    bundle = found.bundle
    if bundle.problem:
        yield _blocking(bundle.problem, "name a bundle with --bundle")
        return
    for each in bundle.artifacts:
        if each.problem:
            yield _note(each.problem, "or use the bundle's other artifacts")
    usable = [each for each in bundle.artifacts if each.usable]
    if not usable:
        engines = dict.fromkeys(ENGINES[each.engine].install for each in bundle.artifacts if not each.problem)
        remedy = f"pip install {' or '.join(engines)}" if engines else "copy the whole bundle again"
        yield _blocking(f"no artifact of {bundle.folder} can be run", remedy)
    elif not bundle.default:
        best = min(usable, key=lambda each: each.precision != "int8")
        remedy = f"start the demo with --precision {best.precision} --engine {best.engine}"
        yield _note("the demo's default artifact cannot be run", remedy)


def _check_display(found: Found) -> Iterator[Problem]:
    if not found.display:
        yield _note("there is no display for a window", "start the demo with --headless, and --output or --serve")
    elif found.opencv and not found.opencv.gui:
        yield _note("this OpenCV opens no window", "pip uninstall opencv-python-headless; pip install opencv-python")


def _check_sources(found: Found) -> Iterator[Problem]:
    if found.opencv and not (found.opencv.ffmpeg or found.opencv.gstreamer):
        yield _note("this OpenCV reads no videos", "pip install opencv-python-headless")
    if found.cameras is not None and not found.cameras:
        yield _note("there is no camera", "plug one in, or start the demo with --source sample")
    for camera in found.cameras or ():
        if not camera.accessible:
            yield _note(f"{camera.device} may not be opened", "sudo usermod -aG video $USER, then log in again")


def _check_web(found: Found) -> Iterator[Problem]:
    if not found.packages["aiohttp"].usable:
        yield _note("aiohttp is not installed, which the web view needs", "pip install aiohttp")


CHECKS: tuple[Callable[[Found], Iterator[Problem]], ...] = (
    _check_python,
    _check_packages,
    _check_interpreters,
    _check_bundle,
    _check_display,
    _check_sources,
    _check_web,
)


def find_problems(found: Found) -> tuple[Problem, ...]:
    """Run all checks; the blocking problems come first."""
    problems = [problem for check in CHECKS for problem in check(found)]
    return tuple(sorted(problems, key=lambda problem: not problem.blocking))
