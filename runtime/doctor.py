"""Report what this machine has for the demo, what the demo would run, and what to do about the rest.

It must work where nothing else does, so it imports neither NumPy nor OpenCV nor an interpreter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.bundle.manifest import Manifest, read_manifest
from runtime.core.cli import EXIT_FAILED, command_parser, run_cli, say, shared_options
from runtime.core.errors import FocalEdgeError
from runtime.core.files import json_text
from runtime.core.machine import Cpu, Memory
from runtime.core.text import printable
from runtime.diagnosis.checks import NEEDED, Problem, find_problems
from runtime.diagnosis.found import BundleState, Found, examine
from runtime.diagnosis.probes import CameraDevice, OpenCv, Package
from runtime.engines.options import engine_options


@dataclass(frozen=True)
class Diagnosis:
    """What was found and what follows.

    Attributes:
        found: the machine.
        default: what the demo runs without options, `None` if it cannot run.
        auto: the choice of `runtime.engine_choice`, `None` without one.
        problems: the blocking ones first.
    """

    found: Found
    default: str | None
    auto: str | None
    problems: tuple[Problem, ...]

    @property
    def can_run(self) -> bool:
        """`True` if the demo can run on this machine, at least without window and camera."""
        return not any(problem.blocking for problem in self.problems)


def diagnose(
    bundle: Path, *, measure: bool, log: Callable[[str], None], examine: Callable[[Path], Found] = examine
) -> Diagnosis:
    """Examine the machine and a bundle, and find what the demo would run.

    Args:
        bundle: folder with manifest.json and artifacts.
        measure: let `runtime.engine_choice` measure; otherwise only a cached choice is reported.
        log: receives why no choice is possible.
        examine: returns the state of the machine.
    """
    found = examine(bundle)
    problems = find_problems(found)
    chosen = found.bundle.default if not any(problem.blocking for problem in problems) else None
    default = f"{chosen.precision} {chosen.engine}, 1 thread ({chosen.runs_on})" if chosen else None
    auto = None
    if all(found.packages[module].works for module in NEEDED) and not found.bundle.problem:
        try:
            auto = _auto(bundle, read_manifest(bundle), measure=measure)
        except FocalEdgeError as error:
            log(f"no choice is possible: {error}")
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
    lines.append("the demo can run" if diagnosis.can_run else "the demo cannot run")
    return "\n".join(map(printable, lines))


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


def _bundle_rows(bundle: BundleState) -> list[str]:
    rows = [_row("bundle", bundle.folder if not bundle.problem else f"{bundle.folder} cannot be read")]
    for each in bundle.artifacts:
        state = "BROKEN" if each.problem else each.runs_on or "no interpreter"
        rows.append(_row(f"  {each.file}", f"{each.precision:8} {each.engine:7} {state}"))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.doctor",
        "Report what this machine has for the demo, what it would run, and what to do about what is missing.",
        parents=[engine_options("--bundle"), shared_options("--json", json="print what was found as JSON")],
    )
    parser.epilog = (
        "Exit code: 0 if the demo can run, at least without window and camera; "
        "1 if something that it needs is missing or broken; 2 on bad arguments."
    )
    parser.add_argument("--measure", action="store_true", help="measure which artifact and engine are the fastest here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`.

    Returns:
        0 if the demo can run, 1 if not.
    """
    args = _parser().parse_args(argv)
    diagnosis = diagnose(args.bundle, measure=args.measure, log=lambda line: say(f"warning: {line}", sys.stderr))
    if args.json:
        print(json_text({"can_run": diagnosis.can_run, **asdict(diagnosis)}))
    else:
        print(describe(diagnosis))
    return 0 if diagnosis.can_run else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(run_cli(main))
