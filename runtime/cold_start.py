"""Cold start: how long a fresh process takes to its first classified image, and how much memory it needs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from runtime.bundle.default import default_bundle
from runtime.bundle.manifest import PRECISIONS
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, DataError, FocalEdgeError
from runtime.engines.registry import ENGINES

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_STARTS = 10
BYTES_PER_MB = 1e6
# `python -m runtime.classify`, which at its end tells its peak memory and CPU time. The parent cannot tell the
# memory: until a child has become another program, the kernel counts the parent's as the child's.
CHILD = """
import runpy, sys, time
try:
    runpy.run_module("runtime.classify", run_name="__main__", alter_sys=True)
finally:
    try:
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"cold_start {peak} {time.process_time()}", file=sys.stderr)
"""


@dataclass(frozen=True)
class Start:
    """One process: the time from its start to its first line of output, its CPU time and its peak resident memory."""

    first_ms: float
    cpu_ms: float
    peak_rss_mb: float


@dataclass(frozen=True)
class ColdStart:
    """Several starts; memory is in megabytes of 10^6 bytes and the largest of all.

    CPU time tells what the program costs, the other times also what else the machine had to do.
    """

    starts: int
    first_min_ms: float
    first_p50_ms: float
    first_p90_ms: float
    cpu_p50_ms: float
    peak_rss_mb: float


def start_once(arguments: Sequence[str]) -> Start:
    """Run `python -m runtime.classify` in a fresh process.

    Args:
        arguments: its command line; an image among them.

    Returns:
        What it took.

    Raises:
        FocalEdgeError: it failed; the message is its own.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # stderr goes to a file: as a second pipe it could fill up while the first is read.
    with tempfile.TemporaryFile("w+") as errors:
        start_s = perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        assert child.stdout is not None
        with child:
            first = child.stdout.readline()
            first_ms = (perf_counter() - start_s) * 1e3
            child.stdout.read()
            code = child.wait()
        errors.seek(0)
        lines = errors.read().splitlines()
    ends = [line.split() for line in lines if line.startswith("cold_start ")]
    if code or not first or not ends:
        said = next(
            (line.removeprefix("error: ") for line in lines if line.startswith("error: ")), " ".join(lines[-1:])
        )
        raise FocalEdgeError(f"a fresh process could not classify (exit code {code}): {said}")
    _, peak_bytes, cpu_s = ends[0]
    return Start(first_ms, float(cpu_s) * 1e3, int(peak_bytes) / BYTES_PER_MB)


def measure_cold_start(arguments: Sequence[str], starts: int) -> ColdStart:
    """Start fresh processes one after the other, after one unmeasured that brings the files into the page cache.

    Args:
        arguments: the command line of `python -m runtime.classify`; an image among them.
        starts: how many to measure, 1 or more.

    Returns:
        Their minimum, median and 90th percentile, the median of their CPU time, and the largest peak memory.

    Raises:
        ConfigError: `starts` is less than 1.
        FocalEdgeError: a process failed.
    """
    if starts < 1:
        raise ConfigError(f"received {starts} starts; give 1 or more")
    from tqdm import tqdm

    from runtime.evaluation.metrics import percentile

    start_once(arguments)
    each = [start_once(arguments) for _ in tqdm(range(starts), unit="start", disable=None, leave=False, delay=5)]
    times_ms = [start.first_ms for start in each]
    return ColdStart(
        starts=starts,
        first_min_ms=round(min(times_ms), 1),
        first_p50_ms=round(percentile(times_ms, 50), 1),
        first_p90_ms=round(percentile(times_ms, 90), 1),
        cpu_p50_ms=round(percentile([start.cpu_ms for start in each], 50), 1),
        peak_rss_mb=round(max(start.peak_rss_mb for start in each), 1),
    )


def write_sample_image(path: Path) -> None:
    """Write the first frame of the demo's own clip as an image file."""
    import cv2

    from runtime.video.sample_clip import sample_frames

    if not cv2.imwrite(str(path), next(sample_frames())[..., ::-1]):
        raise FocalEdgeError(f"cannot write {path}; choose a folder that is writable and has room")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.cold_start",
        description="Start fresh processes that classify one image: time from their start, and peak memory.",
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle(), help="folder with manifest.json (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="int8", help="default: %(default)s")
    add("--engine", choices=ENGINES, help="TFLite or ONNX Runtime (default: the manifest's first)")
    add("--image", type=Path, help="what to classify (default: a frame of the demo's own clip)")
    add("--starts", type=int, default=DEFAULT_STARTS, help="measured processes (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    if args.image and not args.image.is_file():
        raise DataError(f"there is no image {args.image}; give a JPEG, PNG or WebP file")
    options = ["--bundle", str(args.bundle), "--precision", args.precision]
    options += ["--engine", args.engine] if args.engine else []
    with tempfile.TemporaryDirectory() as folder:
        image = args.image or Path(folder) / "sample.png"
        if not args.image:
            write_sample_image(image)
        figures = measure_cold_start([str(image), *options], args.starts)
    if args.json:
        print(json.dumps(asdict(figures), indent=2))
        return 0
    print(f"{figures.starts} fresh processes, files in the page cache, {args.precision}, {args.bundle}")
    print(f"first classification min {figures.first_min_ms:8.1f} ms after the process starts")
    print(f"first classification p50 {figures.first_p50_ms:8.1f} ms")
    print(f"first classification p90 {figures.first_p90_ms:8.1f} ms")
    print(f"CPU time p50             {figures.cpu_p50_ms:8.1f} ms")
    print(f"peak resident memory     {figures.peak_rss_mb:8.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
