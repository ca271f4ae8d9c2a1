"""The status of a running demo: what window, web page and status strip say about the latest frame."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.demo.controls import Settings
from runtime.draw.status_strip import StripLines


@dataclass(frozen=True)
class Status:
    """The latest frame and the run so far.

    Attributes:
        frame: name of the frame.
        frames: frames shown so far.
        dropped_frames: frames that arrived while another one was processed.
        engine: the interpreter and its version.
        threads: its CPU threads.
        settings: what is shown.
        maps: titles of the maps, in the order of `Settings.level`.
        precisions: artifacts that can be shown.
        top5: class names and probabilities, the most likely first; empty where the logits are not finite.
        latency_ms: inference time of the latest frame.
        latency_p50_ms: median over the last 256 frames.
        latency_p90_ms: 90th percentile over the last 256 frames.
        frames_per_s: over the last 2 seconds.
        true_label: from the dataset, if the source knows it.
        running_accuracy: share of labelled frames that were classified right, 0 to 1.
        agreement: share of frames that both artifacts classified alike, 0 to 1, if both were run.
        recording: name of the video being written, if any.
        note: the latest event, such as the name of a snapshot or a camera that is being reconnected.
    """

    frame: str
    frames: int
    dropped_frames: int
    engine: str
    threads: int
    settings: Settings
    maps: tuple[str, ...]
    precisions: tuple[str, ...]
    top5: tuple[tuple[str, float], ...]
    latency_ms: float
    latency_p50_ms: float
    latency_p90_ms: float
    frames_per_s: float
    true_label: str | None = None
    running_accuracy: float | None = None
    agreement: float | None = None
    recording: str | None = None
    note: str = ""

    def strip_lines(self) -> StripLines:
        """Return the text of the status strip."""
        precision = " | ".join(self.precisions) if self.settings.compare else self.settings.precision
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        speed = (
            f"{self.settings.precision} {self.latency_ms:.2f} ms (p50 {self.latency_p50_ms:.2f}, "
            f"p90 {self.latency_p90_ms:.2f})   {self.frames_per_s:.0f} frames/s   dropped {self.dropped_frames}"
        )
        quality = []
        if self.running_accuracy is not None:
            quality.append(f"right {self.running_accuracy:.1%}")
        if self.agreement is not None:
            quality.append(f"agree {self.agreement:.1%}")
        recording = f"REC {self.recording}" if self.recording else ""
        return (f"{precision}   {self.engine}   {threads}", speed), (self.note, "   ".join(quality), recording)
