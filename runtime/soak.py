"""Measure the whole pipeline at full speed over many frames: time by stage, and growth of memory."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.bundle.precisions import Precisions
from runtime.core.cli import BAR_DELAY_S, command_parser, run_cli, shared_options
from runtime.core.errors import ConfigError, SourceError
from runtime.core.files import json_text
from runtime.core.machine import memory_bytes, peak_memory_bytes
from runtime.demo.controls import Controls, Settings
from runtime.demo.pipeline import Pipeline, Result
from runtime.demo.status import Status
from runtime.draw.overlay import LAYOUTS
from runtime.engines.options import REQUIRED, engine_options
from runtime.video.opencv_path import is_text
from runtime.video.sample_clip import sample_frames
from runtime.video.sources import is_live, open_source

DEFAULT_FRAMES = 2_000
# By then the allocator's caches, the latency windows and the clip's second turn are allocated.
WARM_UP_FRAMES = 500
CLIP_WIDTH_PX, CLIP_HEIGHT_PX = 640, 480
STAGES = ("decode", "preprocess", "inference", "overlay")


@dataclass(frozen=True)
class Soak:
    """Figures of one soak.

    Attributes:
        engine: the interpreter.
        precision: of the artifact.
        layout: of the overlay.
        frames: measured frames, without the warm-up.
        frames_per_s: of the whole loop.
        stages_ms: mean time of one frame, by stage; "decode" is the time of the source.
        slowest_ms: the longest time of one frame, all stages.
        rss_start_bytes: resident memory after the warm-up.
        rss_end_bytes: resident memory after the last frame.
        rss_peak_bytes: peak resident memory of the process.
    """

    engine: str
    precision: str
    layout: str
    frames: int
    frames_per_s: float
    stages_ms: dict[str, float]
    slowest_ms: float
    rss_start_bytes: int
    rss_end_bytes: int
    rss_peak_bytes: int


def soak(
    artifacts: Precisions, source: str, frames: int, settings: Settings, warm_up_frames: int = WARM_UP_FRAMES
) -> Soak:
    """Run the pipeline on frames, and draw every panel.

    Args:
        artifacts: the bundle's open artifacts.
        source: a video or another source with an end; it is looped.
        frames: measured frames, 1 or more.
        settings: what is drawn.
        warm_up_frames: unmeasured frames before them.

    Raises:
        ConfigError: the source is live, which has its own speed.
        SourceError: the source gives no frames.
    """
    if is_live(source):
        raise ConfigError(f"received the live source {source!r}; expected a video, which is read at full speed")
    with open_source(source, on_skip=lambda reason: None, loop=True) as opened:
        # Commands would repeat separate images; at a rate, none is.
        pipeline = Pipeline(artifacts, replace(opened, fps=1.0), Controls(), settings=settings)
        results = iter(pipeline)
        _draw(results, warm_up_frames)
        rss_start_bytes = rss_bytes()
        start_s = time.perf_counter()
        drawn = _draw(results, frames)
        elapsed_s = time.perf_counter() - start_s
        rss_end_bytes = rss_bytes()
    if drawn.status is None:
        raise SourceError("the source gave no frame to measure; give a video")
    return Soak(
        engine=drawn.status.engine,
        precision=settings.precision,
        layout=settings.layout,
        frames=drawn.count,
        frames_per_s=drawn.count / elapsed_s,
        stages_ms=dict(zip(STAGES, (drawn.sums_ms / drawn.count).tolist(), strict=True)),
        slowest_ms=drawn.slowest_ms,
        rss_start_bytes=rss_start_bytes,
        rss_end_bytes=rss_end_bytes,
        rss_peak_bytes=peak_memory_bytes(),
    )


@dataclass
class _Drawn:
    """Sums over the drawn frames; times by stage, in ms."""

    count: int
    sums_ms: NDArray[np.float64]
    slowest_ms: float
    status: Status | None


def _draw(results: Iterator[Result], frames: int) -> _Drawn:
    """Draw frames; afterwards none of them is held, so that memory can be compared."""
    drawn = _Drawn(0, np.zeros(len(STAGES)), 0.0, None)
    for result in tqdm(
        islice(results, frames), total=frames, unit="frame", disable=None, mininterval=1.0, delay=BAR_DELAY_S
    ):
        drawn_from_s = time.perf_counter()
        result.panel  # noqa: B018
        overlay_ms = (time.perf_counter() - drawn_from_s) * 1e3
        stages = result.stages
        times_ms = np.array([stages.decode_ms, stages.preprocess_ms, stages.inference_ms, overlay_ms])
        drawn.count += 1
        drawn.sums_ms += times_ms
        drawn.slowest_ms = max(drawn.slowest_ms, float(times_ms.sum()))
        drawn.status = result.status
    return drawn


def rss_bytes() -> int:
    """Return the resident memory of this process, in bytes; its peak where the kernel does not report the memory."""
    return memory_bytes("VmRSS") or peak_memory_bytes()


@contextmanager
def sample_video() -> Iterator[str]:
    """Yield the path of a temporary video of the built-in clip, 640x480 pixels."""
    with tempfile.TemporaryDirectory(prefix="focaledge-soak-") as folder:
        path = str(Path(folder) / "sample.mp4")
        if not is_text(path):
            raise ConfigError(f"the folder for temporary files is {folder}; set TMPDIR to one whose name is UTF-8")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (CLIP_WIDTH_PX, CLIP_HEIGHT_PX))
        for frame in sample_frames():
            larger = cv2.resize(frame, (CLIP_WIDTH_PX, CLIP_HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
            writer.write(cv2.cvtColor(larger, cv2.COLOR_RGB2BGR))
        writer.release()
        yield path


def describe(measured: Soak) -> str:
    """Return the figures as lines of text."""
    grown_mb = (measured.rss_end_bytes - measured.rss_start_bytes) / 1e6
    stages = ", ".join(f"{name} {time_ms:.2f}" for name, time_ms in measured.stages_ms.items())
    return "\n".join(
        [
            f"{measured.frames} frames ({measured.precision}, {measured.layout}, {measured.engine})",
            f"{measured.frames_per_s:.1f} frames/s, the slowest frame {measured.slowest_ms:.1f} ms",
            f"mean ms a frame: {stages}",
            f"memory {measured.rss_start_bytes / 1e6:.1f} MB after warm-up, {measured.rss_end_bytes / 1e6:.1f} MB at "
            f"the end ({grown_mb:+.1f}), {measured.rss_peak_bytes / 1e6:.1f} MB at its peak",
        ]
    )


def main(argv: Sequence[str] | None = None, warm_up_frames: int = WARM_UP_FRAMES) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    if args.frames < 1:
        raise ConfigError(f"received --frames {args.frames}; expected 1 or more")
    # As the demo does, because the network's threads need the cores.
    cv2.setNumThreads(1)
    layout = next(each for each in LAYOUTS if each == args.layout)
    settings = Settings(
        level=0 if layout == "grid" else 1, layout=layout, precision=args.precision, compare=args.compare
    )
    artifacts = Precisions(args.bundle, precision=args.precision, engine=args.engine, threads=args.threads)
    if args.source:
        measured = soak(artifacts, args.source, args.frames, settings, warm_up_frames)
    else:
        with sample_video() as source:
            measured = soak(artifacts, source, args.frames, settings, warm_up_frames)
    print(json_text(asdict(measured)) if args.json else describe(measured))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.soak",
        str(__doc__),
        parents=[
            engine_options("--bundle", "--precision", "--engine", "--threads", bundle=REQUIRED),
            shared_options("--json", json="print the figures as JSON"),
        ],
    )
    add = parser.add_argument
    add("--frames", type=int, default=DEFAULT_FRAMES, metavar="N", help="measured frames after the warm-up, 1 or more")
    add("--source", help="a video, looped (default: the built-in clip at 640x480 pixels)")
    add("--layout", choices=tuple(LAYOUTS), default="grid", help="overlay layout")
    add("--compare", action="store_true", help="draw float32 and int8 side by side")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
