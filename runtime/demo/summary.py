"""The summary of a demo run, and the counts behind it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runtime.core.cli import say
from runtime.core.errors import SourceError
from runtime.core.text import printable
from runtime.demo.counts import percentiles
from runtime.demo.pipeline import Result
from runtime.demo.status import Status
from runtime.video.sources import Frame
from runtime.video.video_file import Video

LATENCIES = 10_000
MAX_WARNINGS = 5


@dataclass(frozen=True)
class Summary:
    """The result of a demo run.

    Latencies are those of `Engine.run`, in milliseconds, over the last 10,000 frames of the precision that was
    shown at the end. `frames_read` and `frames_expected` are of one pass of a video file: frames that were read from it
    so far, and the number that its container states; `None` for other sources, and where it states none.
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
    frames_read: int | None
    frames_expected: int | None
    output: str | None


@dataclass
class Tally:
    """Counts of a run so far."""

    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    last: Status | None = None
    non_finite_frames: int = 0
    skipped_images: int = 0
    failure: SourceError | None = None

    def skip(self, reason: str) -> None:
        """Count an unusable image, and warn about the first 5."""
        self.skipped_images += 1
        if self.skipped_images <= MAX_WARNINGS:
            warn(f"skipped: {reason}")
        if self.skipped_images == MAX_WARNINGS:
            warn("further skipped images are counted only")

    def until_failure(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield frames until they end or fail: a video of the frames so far must not be lost."""
        try:
            yield from frames
        except SourceError as error:
            self.failure = error

    def add(self, result: Result) -> None:
        """Count a result, unless its frame was shown before."""
        if self.last and self.last.settings.precision != result.status.settings.precision:
            self.latencies_ms.clear()
        self.last = result.status
        if not result.repeated:
            self.latencies_ms.append(result.status.latency_ms)
            self.non_finite_frames += not result.is_finite()

    def summary(self, output: Path | None, video: Video | None = None) -> Summary:
        """Return the summary of a run that showed at least one frame, of a video if it had one, and wrote `output`."""
        status = self.last
        assert status is not None
        # A precision that was chosen on the last image has no latencies yet.
        p50_ms, p90_ms = percentiles(self.latencies_ms or [status.latency_ms])
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
            non_finite_frames=self.non_finite_frames,
            skipped_images=self.skipped_images,
            frames_read=video.read if video else None,
            frames_expected=video.extent.frames if video else None,
            output=str(output) if output else None,
        )


def describe(summary: Summary) -> str:
    """Return the summary as lines of text."""
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
    if summary.frames_read is not None:
        known = summary.frames_expected is not None
        stated = f"of {summary.frames_expected}" if known else "(the container states no number)"
        lines.append(f"frames read of the video: {summary.frames_read} {stated}")
    if summary.skipped_images:
        lines.append(f"unreadable images skipped: {summary.skipped_images}")
    if summary.output:
        lines.append(printable(f"wrote {summary.output}"))
    return "\n".join(lines)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say(f"warning: {text}", sys.stderr)
