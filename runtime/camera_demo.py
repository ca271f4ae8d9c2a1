"""Classify frames on this machine and draw the gates over each: in a window, on a web page, in a video or image."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # The demo multiplies no matrices in NumPy, whose thread pool takes time and memory to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # For a script, Python searches the folder of this file for `runtime`, not the folder above it.
    if not __package__:
        sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2

from runtime.bundle.precisions import Precisions
from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.errors import ConfigError, SourceError
from runtime.core.files import json_text
from runtime.demo.controls import Controls, Settings, layout_for, level_for
from runtime.demo.pace import Pace
from runtime.demo.pipeline import Pipeline, Result
from runtime.demo.recorder import Recorder
from runtime.demo.summary import Summary, Tally, describe, warn
from runtime.draw.overlay import LAYOUTS
from runtime.engines.options import engine_options
from runtime.engines.registry import ENGINES
from runtime.video.opencv_log import silence_opencv
from runtime.video.sources import RECONNECT_S, SAMPLE, Source, open_source
from runtime.video.writer import Write, is_image, open_output

if TYPE_CHECKING:
    from runtime.demo.window import Window
    from runtime.web import View

# Rate of separate images in a recorded video and on a web page.
IMAGES_FPS = 2.0
# Longest wait of a viewer's command while a camera gives no frame.
TICK_S = 0.2
AUTO = "auto"

OpenSource = Callable[..., AbstractContextManager[Source]]
# The summary of a run, and why its source failed.
_Ended = tuple[Summary, SourceError | None]


@dataclass(frozen=True)
class _Outlets:
    """Where panels go: the output file, recordings, and a window or web page; `fps` is the rate of the videos."""

    write: Write | None
    recorder: Recorder
    window: Window | None
    view: View | None
    controls: Controls
    fps: float

    def show(self, result: Result, pipeline: Pipeline) -> None:
        """Draw a result and pass the panel to every outlet; without one, nothing is drawn."""
        if not (self.window or self.view or self.write):
            return
        if self.write and not result.repeated:
            self.write(result.panel, self.fps)
        self._record(result, pipeline)
        if self.view:
            self.view.publish(result.panel, result.status)
        if self.window and (command := self.window.show(result.panel)):
            self.controls.put(command)

    def _record(self, result: Result, pipeline: Pipeline) -> None:
        # A second of a camera must fill a second of video, whatever the rate of the demo.
        fps = (result.status.frames_per_s if pipeline.is_live else 0.0) or self.fps
        warning = self.recorder.take(result.panel, result.status.frames - 1, fps, repeated=result.repeated)
        if warning:
            warn(warning)
            pipeline.show_note(warning)


def main(argv: Sequence[str] | None = None, *, open_source: OpenSource = open_source) -> int:
    """Run the demo, with another function in place of `open_source` in tests; returns its exit code."""
    args = _parser().parse_args(argv)
    silence_opencv()
    cv2.setNumThreads(1)  # the network's threads need the cores, and small images gain nothing
    _check(args)
    if not (args.headless or args.serve):
        from runtime.demo.window import require_display

        require_display()
    with _stop_signals() as stopped:
        summary, failure = _run(args, stopped, open_source)
    print(json_text(asdict(summary)) if args.json else describe(summary))
    if failure:
        raise failure
    return 0


def _run(args: argparse.Namespace, stopped: threading.Event, open_source: OpenSource) -> _Ended:
    """Open the engine, the source and the outlets, and show every frame until `stopped` is set.

    If the source fails after a frame, the output and the summary are of the frames before.
    """
    artifacts, precision = _open_artifacts(args)
    level = parse_level(args.level, artifacts.manifest.overlay.focal_levels)
    layout = args.layout or layout_for(level)
    settings = Settings(level_for(layout, level), layout, precision, args.compare)
    tally = Tally()
    with ExitStack() as stack:
        write = stack.enter_context(open_output(args.output)) if args.output else None
        source = stack.enter_context(
            open_source(
                args.source,
                on_skip=tally.skip,
                on_note=warn,
                reconnect_s=args.reconnect_s,
                tick_s=TICK_S,
                loop=args.loop,
            )
        )
        source = replace(source, frames=tally.until_failure(source.frames))
        outlets = _open_outlets(args, stack, write, source, stopped)
        pipeline = Pipeline(
            artifacts,
            source,
            outlets.controls,
            settings=settings,
            perform=outlets.recorder.perform,
            recording=outlets.recorder.recording,
            stopped=stopped,
        )
        _show_frames(args, pipeline, outlets, tally, stopped)
        # Raised inside the block, so that no empty output is published.
        if not tally.last:
            if stopped.is_set():
                raise KeyboardInterrupt
            raise tally.failure or SourceError(f"the source {args.source!r} gave no frame")
    if tally.non_finite_frames:
        warn(f"frames with non-finite values: {tally.non_finite_frames}")
    failure = SourceError(f"{tally.failure} (after {tally.last.frames} frames)") if tally.failure else None
    return tally.summary(args.output, source.video), failure


def _show_frames(
    args: argparse.Namespace, pipeline: Pipeline, outlets: _Outlets, tally: Tally, stopped: threading.Event
) -> None:
    """Count and show each result until the source, a viewer, a signal or the limit ends the run."""
    limit = 1 if args.output and is_image(args.output) else args.max_frames
    pace = Pace(outlets.fps if outlets.view and not pipeline.is_live else None)
    for result in _progress(pipeline, limit, shown=outlets.window is None):
        tally.add(result)
        outlets.show(result, pipeline)
        if result.status.frames == limit:
            break
        stopped.wait(pace.wait_s())


def parse_level(text: str, focal_levels: int) -> int:
    """Convert `--level` to a level of `runtime.draw.overlay.view_panel`, 0 for all maps.

    Args:
        text: "all", "global", "modulator", or the number of a focal level, from 1.
        focal_levels: how many the model has.

    Raises:
        ConfigError: the level is unknown.
    """
    levels = {str(level): level for level in range(1, focal_levels + 1)}
    levels |= {"global": focal_levels + 1, "modulator": focal_levels + 2, "all": 0}
    if text not in levels:
        raise ConfigError(f"received --level {text}; choose one of {', '.join(levels)}")
    return levels[text]


def _open_artifacts(args: argparse.Namespace) -> tuple[Precisions, str]:
    """Open the bundle with the chosen engine, or with the fastest one here; returns the precision too."""
    engine, precision, threads = args.engine, args.precision, args.threads
    if engine == AUTO:
        from runtime.engine_choice import choose_engine

        engine, precision, threads = choose_engine(args.bundle, log=lambda line: say(line, sys.stderr))
    return Precisions(args.bundle, precision=precision, engine=engine, threads=threads), precision


def _open_outlets(
    args: argparse.Namespace, stack: ExitStack, write: Write | None, source: Source, stopped: threading.Event
) -> _Outlets:
    controls, recorder = Controls(), Recorder(Path())
    view = window = None
    if args.serve:
        view = stack.enter_context(_open_view(args, controls))
        say(f"watch it at {view.url}", sys.stderr)
    elif not args.headless:
        from runtime.demo.window import open_window

        window = stack.enter_context(open_window(source.fps or args.images_per_s, stopped))
    stack.callback(_finish, recorder)
    return _Outlets(write, recorder, window, view, controls, source.fps or args.images_per_s or IMAGES_FPS)


def _open_view(args: argparse.Namespace, controls: Controls) -> AbstractContextManager[View]:
    try:
        from runtime.web import serve_view
    except ImportError as error:
        raise ConfigError(
            f"received --serve, but the web page is not installed ({error}); install FocalEdge with its extra `web`"
        ) from error
    return serve_view(args.serve, controls, token=args.token)


def _finish(recorder: Recorder) -> None:
    if recorder.path:
        say(recorder.stop(), sys.stderr)


def _progress(results: Iterable[Result], limit: int | None, *, shown: bool) -> Iterable[Result]:
    """Show a progress bar on a terminal, unless a window is open."""
    if not (shown and sys.stderr.isatty()):
        return results
    # Its import takes a tenth of the time to the first frame.
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
    """Yield an event that SIGINT and SIGTERM set, so that videos are finished before the end."""
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    engine = {
        "choices": (AUTO, *ENGINES),
        "help": f"engine, or `{AUTO}`: the fastest here with its precision and threads (default: the manifest's first)",
    }
    parser = command_parser(
        "camera_demo.py",
        __doc__ or "",
        parents=[
            engine_options("--bundle", "--precision", "--engine", "--threads", engine=engine),
            shared_options("--json"),
        ],
    )
    parser.epilog = (
        "Keys in the window: q or Esc quits, 0 shows all maps, 1..9 one map, l the next layout, p the other precision, "
        "c compares both, r starts or stops a recording, s saves a snapshot; separate images wait for any other key."
    )
    add = parser.add_argument
    add(
        "--source",
        default="0",
        help="camera index or device, RTSP or HTTP URL, GStreamer pipeline, video or GIF, image, folder or pattern of "
        f"images, split file (.npz), or `{SAMPLE}`, a built-in clip",
    )
    add("--loop", action="store_true", help="start again after the last frame")
    add(
        "--reconnect-s",
        type=float,
        metavar="S",
        default=RECONNECT_S,
        help="seconds to wait for a camera or stream that stopped giving frames, 0 or more",
    )
    add(
        "--images-per-s",
        "--pictures-per-s",
        type=float,
        metavar="N",
        help="separate images shown per second, up to 1000 (default: a window waits for a key, a video has 2)",
    )
    add("--level", default="all", help="map to show: all, a focal level from 1, global or modulator")
    layouts = ", ".join(f"{name}: {layout.summary}" for name, layout in LAYOUTS.items())
    add("--layout", choices=LAYOUTS, help=f"{layouts} (default: by --level)")
    add("--compare", action="store_true", help="show float32 and int8 side by side")
    add("--serve", metavar="[HOST:]PORT", help="show a web page and no window (default host: 127.0.0.1)")
    add(
        "--token",
        metavar="TEXT",
        help="token of the web page, 16 characters or more (default: none on 127.0.0.1, elsewhere a new one per start)",
    )
    add("--headless", action="store_true", help="open no window")
    add("--output", type=Path, metavar="FILE", help="write a .mp4 or .avi video, or the first frame as a .png image")
    add("--max-frames", type=int, metavar="N", help="stop after this many frames (default: no limit)")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
