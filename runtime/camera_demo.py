"""Classify frames on this machine, and show the gates over each: in a window, a video or a picture."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Run as a script, Python looks for `runtime` beside this file instead of above it.
if __name__ == "__main__" and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from tqdm import tqdm

from runtime.engine import Engine, open_engine
from runtime.errors import ConfigError, SourceError, run_cli
from runtime.manifest import ENGINES, PRECISIONS, Manifest, read_manifest
from runtime.outputs import Outputs
from runtime.overlay import gate_panel
from runtime.preprocess import Image, preprocess
from runtime.recording import PICTURE_SUFFIX, is_picture, open_output, save_picture
from runtime.sources import SAMPLE, Frame, open_source
from runtime.window import open_window, require_display

DEFAULT_BUNDLE = Path(__file__).resolve().parents[1] / "models" / "edge-nano-cifar10"
WARM_UP_RUNS = 5
# How fast separate pictures follow each other in a recorded video.
PICTURES_FPS = 2.0


@dataclass(frozen=True)
class Summary:
    """What a run of the demo did; latencies are those of `Engine.run` alone, in milliseconds."""

    engine: str
    precision: str
    threads: int
    frames: int
    latency_p50_ms: float
    latency_p90_ms: float
    non_finite_frames: int
    skipped_pictures: int
    output: str | None


@dataclass
class Tally:
    """What is counted while frames are shown."""

    latencies_ms: list[float] = field(default_factory=list)
    non_finite_frames: int = 0
    skipped_pictures: int = 0
    failure: SourceError | None = None

    def skip(self, reason: str) -> None:
        """Count a picture that cannot be read, and say so."""
        self.skipped_pictures += 1
        print(f"warning: skipped: {reason}", file=sys.stderr)

    def until_failure(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield frames until they end or fail: a video of those so far shall not be lost."""
        try:
            yield from frames
        except SourceError as error:
            self.failure = error


class View:
    """One bundle's way of drawing frames: which maps, and with which labels."""

    def __init__(self, manifest: Manifest, level: int | None) -> None:
        """Draw one `level` of the bundle's maps, or (`None`) all."""
        self.level = level
        self._labels = manifest.labels
        self._map_count = manifest.overlay.focal_levels + 2

    def panel(self, frame: Frame, outputs: Outputs, engine: Engine, latency_ms: float) -> Image:
        """Draw one frame as uint8 `[h, w, 3]` RGB."""
        note = f"{latency_ms:.2f} ms   {engine.precision}   {engine.name}   {frame.name}"
        return gate_panel(frame.image_rgb, outputs, self._labels, note=note, level=self.level)

    def choose(self, key: str) -> None:
        """Follow a key: 0 shows all maps, 1.. one of them; any other key changes nothing."""
        if key.isdecimal() and int(key) <= self._map_count:
            self.level = int(key) or None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo's command line; returns its exit code."""
    args = _parser().parse_args(argv)
    _silence_opencv()
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f"received --max-frames {args.max_frames}; give 1 or more")
    if not args.headless:
        require_display()
    with _stop_signals() as stopped:
        summary = run_demo(args, stopped)
    print(json.dumps(asdict(summary), indent=2) if args.json else describe(summary))
    return 0


def run_demo(args: argparse.Namespace, stopped: threading.Event) -> Summary:
    """Open the engine, the source and the outputs, and show every frame.

    Args:
        args: the parsed command line.
        stopped: set from outside to end after the current frame.

    Returns:
        What was done.

    Raises:
        FocalEdgeError: the bundle, the source or the output cannot be used, or the source failed;
            an output then holds the frames before the failure, if there were any.
    """
    manifest = read_manifest(args.bundle)
    view = View(manifest, parse_level(args.level, manifest.overlay.focal_levels))
    engine = open_engine(args.bundle, precision=args.precision, engine=args.engine, threads=args.threads)
    warm_up(engine)
    tally = Tally()
    show_frames(args, engine, view, tally, stopped)
    if tally.failure:
        raise SourceError(f"{tally.failure} (after {len(tally.latencies_ms)} frames)")
    if tally.non_finite_frames:
        print(f"warning: frames with values not finite: {tally.non_finite_frames}", file=sys.stderr)
    p50_ms, p90_ms = np.percentile(tally.latencies_ms, (50, 90))
    return Summary(
        engine=engine.name,
        precision=engine.precision,
        threads=engine.threads,
        frames=len(tally.latencies_ms),
        latency_p50_ms=round(float(p50_ms), 4),
        latency_p90_ms=round(float(p90_ms), 4),
        non_finite_frames=tally.non_finite_frames,
        skipped_pictures=tally.skipped_pictures,
        output=str(args.output) if args.output else None,
    )


def show_frames(args: argparse.Namespace, engine: Engine, view: View, tally: Tally, stopped: threading.Event) -> None:
    """Classify, draw, record and show each frame until the source, the user or a signal ends it.

    Args:
        args: the parsed command line.
        engine: classifies.
        view: draws; keys change it.
        tally: counts.
        stopped: set from outside to end after the current frame.

    Raises:
        FocalEdgeError: the source gave no frame at all, or an output cannot be written.
    """
    limit = 1 if args.output and is_picture(args.output) else args.max_frames
    with ExitStack() as stack:
        write = stack.enter_context(open_output(args.output))
        source = stack.enter_context(open_source(args.source, on_skip=tally.skip))
        window = None if args.headless else stack.enter_context(open_window(source.fps, stopped))
        # A window shows the progress itself.
        bar = tqdm(tally.until_failure(source.frames), total=limit, unit="frame", disable=True if window else None)
        for index, frame in enumerate(bar):
            outputs, latency_ms = timed_run(engine, frame)
            tally.latencies_ms.append(latency_ms)
            tally.non_finite_frames += not outputs.is_finite()
            panel = view.panel(frame, outputs, engine, latency_ms)
            write(panel, source.fps or PICTURES_FPS)
            key = window.show(panel) if window else ""
            view.choose(key)
            if key == "s":
                save_picture(Path(f"snapshot-{index:06d}{PICTURE_SUFFIX}"), panel)
            if key == "q" or stopped.is_set() or index + 1 == limit:
                break
        if not tally.latencies_ms:
            raise tally.failure or SourceError(f"the source {args.source!r} gave no frame")


def parse_level(text: str, focal_levels: int) -> int | None:
    """Turn `--level` into the `level` of `runtime.overlay.gate_panel`.

    Args:
        text: "all", "global", "modulator", or the number of a focal level, from 1.
        focal_levels: how many the model has.

    Raises:
        ConfigError: there is no such level.
    """
    levels: dict[str, int | None] = {str(level): level for level in range(1, focal_levels + 1)}
    levels |= {"global": focal_levels + 1, "modulator": focal_levels + 2, "all": None}
    if text not in levels:
        raise ConfigError(f"received --level {text}; choose one of {', '.join(levels)}")
    return levels[text]


def warm_up(engine: Engine) -> None:
    """Run a black picture a few times: first runs allocate memory and pack weights."""
    black = np.zeros((1, engine.input_size, engine.input_size, 3), dtype=np.uint8)
    for _ in range(WARM_UP_RUNS):
        engine.run(black)


def timed_run(engine: Engine, frame: Frame) -> tuple[Outputs, float]:
    """Classify a frame; returns the outputs and the latency of the engine alone, in milliseconds."""
    image = preprocess(frame.image_rgb, engine.input_size)
    start_s = time.perf_counter()
    outputs = engine.run(image)
    return outputs, (time.perf_counter() - start_s) * 1e3


def describe(summary: Summary) -> str:
    """Return the summary as the lines that the demo prints."""
    lines = [
        f"frames: {summary.frames} ({summary.precision}, {summary.engine}, threads: {summary.threads})",
        f"latency p50 {summary.latency_p50_ms:.2f} ms, p90 {summary.latency_p90_ms:.2f} ms",
    ]
    if summary.skipped_pictures:
        lines.append(f"unreadable pictures skipped: {summary.skipped_pictures}")
    if summary.output:
        lines.append(f"wrote {summary.output}")
    return "\n".join(lines)


def _silence_opencv() -> None:
    """Keep OpenCV's own pages off stderr: every failure here has its one line."""
    # OpenCV 4 and 5 have it in different places; 0 is silent in both.
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_log_level(0)
    # FFmpeg prints past OpenCV's log level; -8 is its "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set, so that a video is finished before the end."""
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="camera_demo.py",
        description=__doc__,
        epilog="Keys in the window: q or Esc quits, 0 shows all maps, 1..9 one map, s saves a snapshot; "
        "separate pictures wait for any key.",
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=DEFAULT_BUNDLE, help="folder with manifest.json (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="int8", help="default: %(default)s")
    add("--engine", choices=ENGINES, help="TFLite or ONNX Runtime (default: the manifest's first)")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add(
        "--source",
        default="0",
        help=f"camera index or device, video, picture, folder of pictures, or `{SAMPLE}`, "
        "a clip the demo makes itself (default: camera %(default)s)",
    )
    add("--level", default="all", help="all, a focal level from 1, global or modulator (default: %(default)s)")
    add("--headless", action="store_true", help="open no window")
    add("--output", type=Path, help="write a .mp4 or .avi video, or the first frame as a .png picture")
    add("--max-frames", type=int, help="stop after so many frames")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
