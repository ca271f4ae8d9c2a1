"""What this machine has for the demo, what it would run, and what to do about what is missing.

It must work where nothing else does, so it imports neither NumPy nor OpenCV nor an interpreter itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.bundle.default import default_bundle
from runtime.bundle.manifest import Artifact, Manifest, read_manifest, verified_file
from runtime.core.cli import run_cli
from runtime.core.errors import FocalEdgeError
from runtime.core.machine import Cpu, Memory, read_cpu, read_memory
from runtime.engines.registry import ENGINES, INTERPRETERS
from runtime.probes import OPENCV_FACTS, CameraDevice, OpenCv, Package, find_cameras, find_package, parse_opencv

EXIT_CANNOT_RUN = 1
OLDEST_PYTHON = (3, 11)
# What is imported to try a package; TensorFlow is not tried, as it takes seconds and hundreds of megabytes.
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
NEEDED = ("numpy", "cv2", "tqdm")
INSTALL = {"numpy": "numpy", "cv2": "opencv-python-headless", "tqdm": "tqdm"}


@dataclass(frozen=True)
class ArtifactState:
    """One artifact of the bundle; `problem` is "" if the file is what the manifest says."""

    file: str
    precision: str
    engine: str
    runs_on: str | None
    problem: str


@dataclass(frozen=True)
class Bundle:
    """The bundle; `problem` is "" if its manifest could be read."""

    folder: str
    problem: str
    artifacts: tuple[ArtifactState, ...]


@dataclass(frozen=True)
class Problem:
    """Something missing, what to do about it, and whether the demo cannot run without it."""

    what: str
    remedy: str
    blocking: bool


@dataclass(frozen=True)
class Found:
    """What was found on the machine, before any judgement.

    Attributes:
        python: the version.
        system: the kernel's name and release.
        cpu: the processor.
        memory: `None` where the kernel does not list it.
        packages: by the module that is imported.
        opencv: `None` if OpenCV does not work.
        cameras: those that give images; `None` where they are not listed as on Linux.
        display: where a window would open, "" if nowhere.
        bundle: what the folder holds.
    """

    python: str
    system: str
    cpu: Cpu
    memory: Memory | None
    packages: dict[str, Package]
    opencv: OpenCv | None
    cameras: tuple[CameraDevice, ...] | None
    display: str
    bundle: Bundle


@dataclass(frozen=True)
class Diagnosis:
    """What was found and what follows.

    Attributes:
        found: the machine.
        default: what the demo runs if it is told nothing, `None` if it cannot.
        auto: what `runtime.engine_choice` chose, `None` if it was not asked or cannot.
        problems: the blocking ones first.
    """

    found: Found
    default: str | None
    auto: str | None
    problems: tuple[Problem, ...]

    @property
    def can_run(self) -> bool:
        """Whether the demo can run on this machine, if only without window and camera."""
        return not any(problem.blocking for problem in self.problems)


def examine(bundle: Path) -> Found:
    """Look at the machine and at a bundle; nothing that is broken stops it.

    Args:
        bundle: folder with manifest.json and artifacts.
    """
    # Each waits for a process of its own.
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
    """Return where a window would open, "" if nowhere; systems other than Linux have a display of their own."""
    if system != "linux":
        return system
    return next((environment[name] for name in ("WAYLAND_DISPLAY", "DISPLAY") if environment.get(name)), "")


def examine_bundle(folder: Path, packages: Mapping[str, Package]) -> Bundle:
    """Check a bundle's manifest and files, and which interpreter runs each.

    Args:
        folder: the bundle.
        packages: those that were looked for, by module.
    """
    try:
        manifest = read_manifest(folder)
    except FocalEdgeError as error:
        return Bundle(str(folder), str(error), ())
    return Bundle(str(folder), "", tuple(_artifact_state(folder, each, packages) for each in manifest.artifacts))


def _artifact_state(folder: Path, artifact: Artifact, packages: Mapping[str, Package]) -> ArtifactState:
    try:
        verified_file(folder, artifact)
        problem = ""
    except FocalEdgeError as error:
        problem = str(error)
    candidates = [packages[each.package] for each in ENGINES[artifact.engine].interpreters]
    runs_on = next((_version(package) for package in candidates if _usable(package)), None)
    return ArtifactState(artifact.file, artifact.precision, artifact.engine, runs_on, problem)


def _usable(package: Package) -> bool:
    """Whether a package works, or is installed and was not tried."""
    return package.version is not None and package.works is not False


def _version(package: Package) -> str:
    return f"{package.name} {package.version}"


def find_problems(found: Found) -> tuple[Problem, ...]:
    """Judge what was found.

    Returns:
        The problems and their remedies, the blocking ones first.
    """
    problems = [*_package_problems(found), *_bundle_problems(found.bundle), *_view_problems(found)]
    return tuple(sorted(problems, key=lambda problem: not problem.blocking))


def _package_problems(found: Found) -> list[Problem]:
    problems = []
    if tuple(int(part) for part in found.python.split(".")[:2]) < OLDEST_PYTHON:
        problems.append(Problem(f"Python is {found.python}", "install Python 3.11", blocking=True))
    for module in NEEDED:
        package = found.packages[module]
        if package.version is None:
            problems.append(
                Problem(f"{package.name} is not installed", f"pip install {INSTALL[module]}", blocking=True)
            )
        elif package.works is False:
            problems.append(
                Problem(f"{package.name}: {package.reason}", _repair(module, package.reason), blocking=True)
            )
    interpreters = [found.packages[each.package] for each in INTERPRETERS]
    if not any(map(_usable, interpreters)):
        problems.append(Problem("no interpreter for the artifacts works", "pip install ai-edge-litert", blocking=True))
    for package in interpreters:
        if package.works is False:
            instead = "" if package.name == "ai-edge-litert" else ", or remove it and install ai-edge-litert"
            remedy = f"pip install --force-reinstall {package.name}{instead}"
            problems.append(Problem(f"{package.name}: {package.reason}", remedy, blocking=False))
    return problems


def _repair(module: str, reason: str) -> str:
    if module == "cv2" and "cannot open shared object" in reason:
        return "apt-get install libgl1 libglib2.0-0, or install opencv-python-headless in place of opencv-python"
    return f"pip install --force-reinstall {INSTALL[module]}"


def _bundle_problems(bundle: Bundle) -> list[Problem]:
    if bundle.problem:
        return [Problem(bundle.problem, "name a bundle with --bundle", blocking=True)]
    problems = [
        Problem(each.problem, "or use the bundle's other artifacts", blocking=False)
        for each in bundle.artifacts
        if each.problem
    ]
    if not any(each.runs_on and not each.problem for each in bundle.artifacts):
        engines = dict.fromkeys(ENGINES[each.engine].install for each in bundle.artifacts if not each.problem)
        remedy = f"pip install {' or '.join(engines)}" if engines else "copy the whole bundle again"
        problems.append(Problem(f"no artifact of {bundle.folder} can be run", remedy, blocking=True))
    elif not _default(bundle):
        usable = min(
            (each for each in bundle.artifacts if each.runs_on and not each.problem),
            key=lambda each: each.precision != "int8",
        )
        remedy = f"start the demo with --precision {usable.precision} --engine {usable.engine}"
        problems.append(Problem("the demo's default artifact cannot be run", remedy, blocking=False))
    return problems


def _default(bundle: Bundle) -> ArtifactState | None:
    """Return the artifact that the demo runs if it is told nothing: the first int8 one."""
    first = next((each for each in bundle.artifacts if each.precision == "int8"), None)
    return first if first and first.runs_on and not first.problem else None


def _view_problems(found: Found) -> list[Problem]:
    problems = []

    def note(what: str, remedy: str) -> None:
        problems.append(Problem(what, remedy, blocking=False))

    if not found.display:
        note("there is no display for a window", "start the demo with --headless, and --output or --serve")
    elif found.opencv and not found.opencv.gui:
        note("this OpenCV opens no window", "pip uninstall opencv-python-headless; pip install opencv-python")
    if found.opencv and not (found.opencv.ffmpeg or found.opencv.gstreamer):
        note("this OpenCV reads no videos", "pip install opencv-python-headless")
    if found.cameras is not None and not found.cameras:
        note("there is no camera", "plug one in, or start the demo with --source sample")
    for camera in found.cameras or ():
        if not camera.accessible:
            note(f"{camera.device} may not be opened", "sudo usermod -aG video $USER, then log in again")
    if not _usable(found.packages["aiohttp"]):
        note("aiohttp is not installed, which the web view needs", "pip install aiohttp")
    return problems


def diagnose(bundle: Path, *, measure: bool, log: Callable[[str], None]) -> Diagnosis:
    """Examine the machine and a bundle, and say what would be run.

    Args:
        bundle: folder with manifest.json and artifacts.
        measure: let `runtime.engine_choice` measure; else it only tells what it measured before.
        log: is told why nothing could be chosen.
    """
    found = examine(bundle)
    problems = find_problems(found)
    chosen = _default(found.bundle) if not any(problem.blocking for problem in problems) else None
    default = f"{chosen.precision} {chosen.engine}, 1 thread ({chosen.runs_on})" if chosen else None
    auto = None
    if all(found.packages[module].works for module in NEEDED) and not found.bundle.problem:
        try:
            auto = _auto(bundle, read_manifest(bundle), measure=measure)
        except FocalEdgeError as error:
            log(f"nothing can be chosen: {error}")
    return Diagnosis(found, default, auto, problems)


def _auto(bundle: Path, manifest: Manifest, *, measure: bool) -> str | None:
    # Imported here: they need NumPy.
    from runtime.selection.candidates import plan, this_machine
    from runtime.selection.choose import choose, remembered

    made = choose(bundle, log=lambda _: None, fresh=True) if measure else remembered(plan(manifest, this_machine()))
    if made is None:
        return None
    best = next(each for each in made.measured if each.candidate == made.candidate)
    return f"{made.candidate}, p50 {best.latency.p50_ms:.3f} ms ({best.interpreter})"


def describe(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as aligned text."""
    found = diagnosis.found
    lines = [
        _row("Python", found.python),
        _row("system", found.system),
        _row("CPU", _cpu(found.cpu)),
        _row("memory", _memory(found.memory)),
        "",
        *(_package_row(module, package, found.opencv) for module, package in found.packages.items()),
        "",
        _row("display", found.display or "none"),
        *_camera_rows(found.cameras),
        "",
        *_bundle_rows(found.bundle),
        _row("default", diagnosis.default or "cannot run"),
        _row("auto", diagnosis.auto or ("not measured; --measure does it" if diagnosis.can_run else "cannot run")),
        "",
    ]
    for problem in diagnosis.problems:
        lines += [f"{'PROBLEM' if problem.blocking else 'note'}: {problem.what}", f"    -> {problem.remedy}"]
    return "\n".join([*lines, "the demo can run" if diagnosis.can_run else "the demo cannot run"])


def _row(name: str, text: str) -> str:
    return f"{name:16} {text}"


def _cpu(cpu: Cpu) -> str:
    features = " ".join(cpu.features) or "no features known"
    return f"{cpu.model}, {cpu.architecture}, {cpu.cores} core{'s' if cpu.cores > 1 else ''}; {features}"


def _memory(memory: Memory | None) -> str:
    if memory is None:
        return "unknown"
    return f"{memory.total_bytes / 1e6:,.0f} MB, {memory.available_bytes / 1e6:,.0f} MB of it available"


def _package_row(module: str, package: Package, opencv: OpenCv | None) -> str:
    if package.version is None:
        return _row(package.name, "-")
    state = {True: "", False: f"  BROKEN: {package.reason}", None: "  (not tried)"}[package.works]
    if module == "cv2" and opencv:
        parts = {"FFmpeg": opencv.ffmpeg, "GStreamer": opencv.gstreamer, "V4L": opencv.v4l}
        having = [f"window {opencv.gui}" if opencv.gui else "headless"]
        state = f"  {', '.join([*having, *(name if there else f'no {name}' for name, there in parts.items())])}"
    return _row(package.name, f"{package.version}{state}")


def _camera_rows(cameras: Sequence[CameraDevice] | None) -> list[str]:
    if cameras is None:
        return [_row("cameras", "not listed on this system")]
    shown = [f"{each.device} {each.name if each.accessible else '(may not be opened)'}" for each in cameras]
    return [_row("cameras" if index == 0 else "", text) for index, text in enumerate(shown or ["none"])]


def _bundle_rows(bundle: Bundle) -> list[str]:
    rows = [_row("bundle", bundle.folder if not bundle.problem else f"{bundle.folder} cannot be read")]
    for each in bundle.artifacts:
        state = "BROKEN" if each.problem else each.runs_on or "no interpreter"
        rows.append(_row(f"  {each.file}", f"{each.precision:8} {each.engine:7} {state}"))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.doctor",
        description="Say what this machine has for the demo, what it would run, and what to do about what is missing.",
        epilog="Exit code: 0 if the demo can run, if only without window and camera; "
        "1 if something that it needs is missing or broken; 2 on bad arguments.",
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle(), help="folder with manifest.json (default: %(default)s)")
    add("--measure", action="store_true", help="measure which artifact and engine are the fastest here")
    add("--json", action="store_true", help="print what was found as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`.

    Returns:
        0 if the demo can run, 1 if not.
    """
    args = _parser().parse_args(argv)
    diagnosis = diagnose(args.bundle, measure=args.measure, log=lambda line: print(f"warning: {line}", file=sys.stderr))
    if args.json:
        print(json.dumps({"can_run": diagnosis.can_run, **asdict(diagnosis)}, indent=2))
    else:
        print(describe(diagnosis))
    return 0 if diagnosis.can_run else EXIT_CANNOT_RUN


if __name__ == "__main__":
    sys.exit(run_cli(main))
