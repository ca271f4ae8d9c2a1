"""Classify frames on this machine, and show the gates over each: in a window, on a web page, in a video or image."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

if __name__ == "__main__":
    # It multiplies no matrices in NumPy, whose pool of threads takes time and memory to make.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Run as a script, Python looks for `runtime` beside this file instead of above it.
    if not __package__:
        sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2

from runtime.bundle.default import default_bundle
from runtime.bundle.manifest import ENGINES, PRECISIONS
from runtime.bundle.precisions import Artifacts
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, SourceError
from runtime.demo.controls import Controls, Settings, layout_for, level_for
from runtime.demo.counts import percentiles
from runtime.demo.pipeline import Pipeline, Result
from runtime.demo.recorder import Recorder
from runtime.demo.status import Status
from runtime.demo.window import command_for, open_window, require_display
from runtime.draw.overlay import LAYOUTS
from runtime.images.preprocess import Image
from runtime.video.opencv_log import silence_opencv
from runtime.video.sources import RECONNECT_S, SAMPLE, Frame, open_source
from runtime.video.writer import Write, is_image, open_output

# How fast separate images follow each other in a recorded video, and on a web page.
IMAGES_FPS = 2.0
# How long a viewer's command waits at most while a camera gives no frame.
TICK_S = 0.2
LATENCIES = 10_000
WARNINGS = 5
AUTO = "auto"


@dataclass(frozen=True)
class Summary:
    """What a run of the demo did.

    Latencies are those of `Engine.run` alone, in milliseconds, over the last 10,000 frames of the precision that was
    shown at the end.
    """

    engine: str
    precision: str
    threads: int
    frames: int
    dropped_frames: int
    latency_p50_ms: float
    latency_p90_ms: float
    running_accuracy: float | None
    agreement: float | None
    non_finite_frames: int
    skipped_images: int
    output: str | None


@dataclass
class Tally:
    """What is counted while frames are shown."""

    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    last: Status | None = None
    non_finite_frames: int = 0
    skipped_images: int = 0
    failure: SourceError | None = None

    def skip(self, reason: str) -> None:
        """Count an image that cannot be used, and say so, unless it was said often enough."""
        self.skipped_images += 1
        if self.skipped_images <= WARNINGS:
            warn(f"skipped: {reason}")
        if self.skipped_images == WARNINGS:
            warn("more images to skip are counted only")

    def until_failure(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield frames until they end or fail: a video of those so far shall not be lost."""
        try:
            yield from frames
        except SourceError as error:
            self.failure = error

    def add(self, result: Result) -> None:
        """Count a frame that was classified, unless it was shown before."""
        if self.last and self.last.settings.precision != result.status.settings.precision:
            self.latencies_ms.clear()
        self.last = result.status
        if not result.repeated:
            self.latencies_ms.append(result.status.latency_ms)
            self.non_finite_frames += not result.is_finite()


class View(Protocol):
    """A web page that shows panels; `runtime.web.serve_view` opens one."""

    url: str

    def publish(self, panel: Image, status: Status) -> None:
        """Show a panel, uint8 `[h, w, 3]` RGB; never waits."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo's command line; returns its exit code."""
    args = _parser().parse_args(argv)
    silence_opencv()
    cv2.setNumThreads(1)  # the network's threads need the cores, and images of this size gain nothing
    _check(args)
    if not (args.headless or args.serve):
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
        KeyboardInterrupt: it was stopped before the first frame.
    """
    artifacts, precision = open_artifacts(args)
    settings = first_settings(args, precision, artifacts.manifest.overlay.focal_levels)
    tally = Tally()
    status = show_frames(args, artifacts, settings, tally, stopped)
    # A precision that was changed on the last image has no latencies of its own.
    latencies_ms = tally.latencies_ms or [status.latency_ms]
    if tally.failure:
        raise SourceError(f"{tally.failure} (after {status.frames} frames)")
    if tally.non_finite_frames:
        warn(f"frames with values not finite: {tally.non_finite_frames}")
    p50_ms, p90_ms = percentiles(latencies_ms)
    return Summary(
        engine=status.engine,
        precision=status.settings.precision,
        threads=status.threads,
        frames=status.frames,
        dropped_frames=status.dropped_frames,
        latency_p50_ms=round(p50_ms, 4),
        latency_p90_ms=round(p90_ms, 4),
        running_accuracy=status.running_accuracy,
        agreement=status.agreement,
        non_finite_frames=tally.non_finite_frames,
        skipped_images=tally.skipped_images,
        output=str(args.output) if args.output else None,
    )


def show_frames(
    args: argparse.Namespace, artifacts: Artifacts, settings: Settings, tally: Tally, stopped: threading.Event
) -> Status:
    """Classify, draw, record and show each frame until the source, a viewer or a signal ends it.

    Args:
        args: the parsed command line.
        artifacts: classify.
        settings: what to show at first.
        tally: counts.
        stopped: set from outside to end after the current frame.

    Returns:
        What was last said.

    Raises:
        FocalEdgeError: the source gave no frame at all, or an output cannot be written.
        KeyboardInterrupt: it was stopped before the first frame.
    """
    limit = 1 if args.output and is_image(args.output) else args.max_frames
    controls, recorder = Controls(), Recorder(Path())
    with ExitStack() as stack:
        write = stack.enter_context(open_output(args.output))
        source = stack.enter_context(
            open_source(args.source, on_skip=tally.skip, reconnect_s=args.reconnect_s, tick_s=TICK_S, loop=args.loop)
        )
        source = replace(source, frames=tally.until_failure(source.frames))
        view = stack.enter_context(_open_view(args, controls)) if args.serve else None
        if view:
            print(f"watch it at {view.url}", file=sys.stderr)
        window = None
        if not (args.headless or args.serve):
            window = stack.enter_context(open_window(source.fps or args.images_per_s, stopped))
        stack.callback(_finish, recorder)
        pipeline = Pipeline(
            artifacts,
            source,
            controls,
            settings=settings,
            perform=recorder.perform,
            recording=recorder.recording,
            stopped=stopped,
        )
        rate = source.fps or args.images_per_s or IMAGES_FPS
        pace = Pace(stopped, rate if view and not source.live else None)
        for result in _progress(pipeline, limit, shown=window is None):
            tally.add(result)
            # Nobody looks: nothing is drawn.
            if window or view or args.output:
                _show(result, (write, rate), recorder, view, pipeline)
            if window:
                _press(window.show(result.panel), controls)
            if result.status.frames == limit:
                break
            pace.wait()
        if not tally.last:
            # Raised here, so that no empty output takes its name.
            if stopped.is_set():
                raise KeyboardInterrupt
            raise tally.failure or SourceError(f"the source {args.source!r} gave no frame")
        return tally.last


def parse_level(text: str, focal_levels: int) -> int | None:
    """Convert `--level` to the level of `runtime.draw.overlay.view_panel`.

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


def first_settings(args: argparse.Namespace, precision: str, focal_levels: int) -> Settings:
    """Return what the command line asks to see at first.

    Raises:
        ConfigError: there is no such map.
    """
    level = parse_level(args.level, focal_levels) or 0
    layout = args.layout or layout_for(level)
    return Settings(level=level_for(layout, level), layout=layout, precision=precision, compare=args.compare)


def open_artifacts(args: argparse.Namespace) -> tuple[Artifacts, str]:
    """Open the bundle with the engine that is asked for, or the one that is best here; returns the precision too.

    Raises:
        FocalEdgeError: the bundle cannot be used.
    """
    engine, precision, threads = args.engine, args.precision, args.threads
    if engine == AUTO:
        # Measures engines, so that no other run needs it.
        choose_engine = importlib.import_module("runtime.engine_choice").choose_engine
        engine, precision, threads = choose_engine(args.bundle, log=lambda line: print(line, file=sys.stderr))
    return Artifacts(args.bundle, precision=precision, engine=engine, threads=threads), precision


class Pace:
    """Lets results go no faster than their rate."""

    def __init__(self, stopped: threading.Event, fps: float | None) -> None:
        """Keep to `fps` results a second, or to none (`None`); a wait also ends when `stopped` is set."""
        self._stopped = stopped
        self._period_s = 1.0 / fps if fps else None
        self._due_s = time.monotonic()

    def wait(self) -> None:
        """Wait until the next result is due."""
        if self._period_s is not None:
            self._due_s = max(self._due_s + self._period_s, time.monotonic())
            self._stopped.wait(self._due_s - time.monotonic())


def describe(summary: Summary) -> str:
    """Return the summary as the lines that the demo prints."""
    lines = [
        f"frames: {summary.frames} ({summary.precision}, {summary.engine}, threads: {summary.threads})",
        f"latency p50 {summary.latency_p50_ms:.2f} ms, p90 {summary.latency_p90_ms:.2f} ms",
    ]
    if summary.dropped_frames:
        lines.append(f"dropped frames: {summary.dropped_frames}")
    if summary.running_accuracy is not None:
        lines.append(f"right: {summary.running_accuracy:.2%}")
    if summary.agreement is not None:
        lines.append(f"float32 and int8 agree: {summary.agreement:.2%}")
    if summary.skipped_images:
        lines.append(f"unreadable images skipped: {summary.skipped_images}")
    if summary.output:
        lines.append(f"wrote {summary.output}")
    return "\n".join(lines)


def warn(text: str) -> None:
    """Print a warning."""
    print(f"warning: {text}", file=sys.stderr)


def _show(
    result: Result, output: tuple[Write, float], recorder: Recorder, view: View | None, pipeline: Pipeline
) -> None:
    """Draw a result, and hand the panel to all that take it."""
    write, fps = output
    status = result.status
    if not result.repeated:
        write(result.panel, fps)
    # Of a camera, what was shown in a second shall fill one.
    rate = status.frames_per_s if pipeline.is_live and status.frames_per_s else fps
    warning = recorder.take(result.panel, status.frames - 1, rate, repeated=result.repeated)
    if warning:
        warn(warning)
        pipeline.show_note(warning)
    if view:
        view.publish(result.panel, status)


def _press(key: str, controls: Controls) -> None:
    command = command_for(key)
    if command:
        controls.put(command)


def _finish(recorder: Recorder) -> None:
    if recorder.path:
        print(recorder.stop(), file=sys.stderr)


def _open_view(args: argparse.Namespace, controls: Controls) -> AbstractContextManager[View]:
    # Imported here, as it needs a package that no other run does.
    try:
        serve_view = importlib.import_module("runtime.web").serve_view
    except ImportError as error:
        raise ConfigError(
            f"--serve needs what is not installed ({error}); install FocalEdge with its extra `web`"
        ) from error
    opened: AbstractContextManager[View] = serve_view(args.serve, controls, token=args.token)
    return opened


def _progress(results: Iterable[Result], limit: int | None, *, shown: bool) -> Iterable[Result]:
    """Show how far it is, where there is a terminal and no window does."""
    if not (shown and sys.stderr.isatty()):
        return results
    # Imported here, as it takes a tenth of the time to the first frame.
    from tqdm import tqdm

    bar: Iterable[Result] = tqdm(results, total=limit, unit="frame")
    return bar


def _check(args: argparse.Namespace) -> None:
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f"received --max-frames {args.max_frames}; give 1 or more")
    if not 0 <= args.reconnect_s < float("inf"):
        raise ConfigError(f"received --reconnect-s {args.reconnect_s:g}; give 0 or more seconds")
    if args.images_per_s is not None and not 0 < args.images_per_s <= 1000:
        raise ConfigError(f"received --images-per-s {args.images_per_s:g}; give more than 0, and 1000 at most")
    if args.token is not None and not args.serve:
        raise ConfigError("received --token without --serve; give both or none")


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
        epilog="Keys in the window: q or Esc quits, 0 shows all maps, 1..9 one map, l the next layout, p the other "
        "precision, c compares both, r records or stops, s saves a snapshot; separate images wait for any other key.",
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle(), help="folder with manifest.json (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="int8", help="default: %(default)s")
    add(
        "--engine",
        choices=(AUTO, *ENGINES),
        help="TFLite or ONNX Runtime (default: the manifest's first), or what is fastest here, with its precision "
        "and threads",
    )
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add(
        "--source",
        default="0",
        help="camera index or device, RTSP or HTTP URL, GStreamer pipeline, video, image, folder or pattern of "
        f"images, split file (.npz), or `{SAMPLE}`, a clip the demo makes itself (default: camera %(default)s)",
    )
    add("--loop", action="store_true", help="begin again after the last frame")
    add(
        "--reconnect-s",
        type=float,
        default=RECONNECT_S,
        help="how long a camera or stream that gave frames is waited for (default: %(default)g s)",
    )
    add(
        "--images-per-s",
        "--pictures-per-s",
        type=float,
        help="show separate images at this rate (default: a window waits for a key)",
    )
    add("--level", default="all", help="all, a focal level from 1, global or modulator (default: %(default)s)")
    add("--layout", choices=LAYOUTS, help="all maps, one beside the frame, or one over it (default: by --level)")
    add("--compare", action="store_true", help="show float32 and int8 side by side")
    add("--serve", metavar="[HOST:]PORT", help="show a web page in place of a window")
    add("--token", help="what the web page asks for")
    add("--headless", action="store_true", help="open no window")
    add("--output", type=Path, help="write a .mp4 or .avi video, or the first frame as a .png image")
    add("--max-frames", type=int, help="stop after so many frames")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
