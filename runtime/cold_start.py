"""Measure cold start: time from the start of a fresh process to its first classified image, and peak memory."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from runtime.core.cli import BAR_DELAY_S, command_parser, run_cli, say, shared_options
from runtime.core.errors import ConfigError, DataError
from runtime.core.files import json_text
from runtime.engines.options import engine_options
from runtime.evaluation.fresh_process import FreshProcess, run_fresh
from runtime.evaluation.metrics import percentile
from runtime.video.sample_clip import sample_frames
from runtime.video.writer import save_image

DEFAULT_STARTS = 10
BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class ColdStart:
    """Figures of several starts; memory is the largest, in megabytes of 10^6 bytes.

    CPU time is the program's own; the other times also depend on what else the machine does.
    """

    starts: int
    first_min_ms: float
    first_p50_ms: float
    first_p90_ms: float
    cpu_p50_ms: float
    peak_rss_mb: float


def measure_cold_start(
    arguments: Sequence[str], starts: int, run: Callable[[str, Sequence[str]], FreshProcess] = run_fresh
) -> ColdStart:
    """Start fresh processes one by one, after an unmeasured one that brings the files into the page cache.

    Args:
        arguments: the command line of `python -m runtime.classify`, with an image.
        starts: measured processes, 1 or more.
        run: runs a module with arguments in a fresh process.

    Raises:
        ConfigError: `starts` is less than 1.
        FocalEdgeError: a process failed.
    """
    if starts < 1:
        raise ConfigError(f"received {starts} starts; expected 1 or more")
    run("runtime.classify", arguments)
    bar = tqdm(range(starts), desc="cold start", unit="start", disable=None, leave=False, delay=BAR_DELAY_S)
    each = [run("runtime.classify", arguments) for _ in bar]
    times_ms = [start.first_line_ms for start in each]
    return ColdStart(
        starts=starts,
        first_min_ms=round(min(times_ms), 1),
        first_p50_ms=round(percentile(times_ms, 50), 1),
        first_p90_ms=round(percentile(times_ms, 90), 1),
        cpu_p50_ms=round(percentile([start.cpu_ms for start in each], 50), 1),
        peak_rss_mb=round(max(start.peak_bytes for start in each) / BYTES_PER_MB, 1),
    )


def write_sample_image(path: Path) -> None:
    """Write the first frame of the built-in clip as an image file."""
    save_image(path, next(sample_frames()))


def main(argv: Sequence[str] | None = None, measure: Callable[..., ColdStart] = measure_cold_start) -> int:
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
        figures = measure([str(image), *options], args.starts)
    if args.json:
        print(json_text(asdict(figures)))
        return 0
    say(f"{figures.starts} fresh processes, files in the page cache, {args.precision}, {args.bundle}")
    print(f"first classification min {figures.first_min_ms:8.1f} ms after the process starts")
    print(f"first classification p50 {figures.first_p50_ms:8.1f} ms")
    print(f"first classification p90 {figures.first_p90_ms:8.1f} ms")
    print(f"CPU time p50             {figures.cpu_p50_ms:8.1f} ms")
    print(f"peak resident memory     {figures.peak_rss_mb:8.1f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.cold_start",
        "Start fresh processes that classify one image: time to the first result, CPU time and peak memory.",
        parents=[
            engine_options("--bundle", "--precision", "--engine"),
            shared_options("--json", json="print the figures as JSON"),
        ],
    )
    image = "image to classify (default: a frame of the built-in clip)"
    parser.add_argument("--image", "--picture", type=Path, metavar="FILE", help=image)
    parser.add_argument("--starts", type=int, default=DEFAULT_STARTS, metavar="N", help="measured starts, 1 or more")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
