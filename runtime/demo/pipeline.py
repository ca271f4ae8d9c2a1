"""The demo pipeline: classify each frame of a source and follow the viewer's commands between frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from runtime.bundle.precisions import Precisions
from runtime.core.errors import ArtifactError, ConfigError
from runtime.demo.controls import Command, Controls, Settings, changed
from runtime.demo.counts import FrameCounts
from runtime.demo.status import Status
from runtime.draw.maps import map_titles
from runtime.draw.overlay import View, top_classes, view_panel
from runtime.draw.status_strip import with_status_strip
from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.images.preprocess import Image, preprocess
from runtime.video.sources import Frame, Source

NOTE_S = 5.0
TOP = 5


@dataclass(frozen=True)
class Stages:
    """Time spent on one frame by stage, in milliseconds; inference is the sum over the artifacts shown."""

    decode_ms: float
    preprocess_ms: float
    inference_ms: float


@dataclass(frozen=True)
class Result:
    """A classified frame.

    Attributes:
        frame: the image.
        views: the outputs of each artifact shown.
        status: figures and settings.
        labels: class names.
        stages: time by stage.
        seen_fraction: side of the square that the network saw, as a share of the frame's short side, 0 to 1.
        repeated: the frame was shown before and is not counted again.
    """

    frame: Frame
    views: tuple[View, ...]
    status: Status
    labels: tuple[str, ...]
    stages: Stages
    seen_fraction: float
    repeated: bool

    @cached_property
    def panel(self) -> Image:
        """The image to show, uint8 `[h, w, 3]` RGB with even sides; drawn on first use."""
        name = self.frame.name
        if self.frame.true_label is not None:
            name = f"true: {self.frame.true_label}   {name}"
        settings = self.status.settings
        panel = view_panel(
            self.frame.image_rgb,
            self.views,
            self.labels,
            settings.layout,
            settings.level,
            note=name,
            seen_fraction=self.seen_fraction,
        )
        return with_status_strip(panel, self.status.strip_lines())

    def is_finite(self) -> bool:
        """Return whether all outputs shown are free of NaNs and infinities."""
        return all(view.outputs.is_finite() for view in self.views)


@dataclass(frozen=True)
class TimedOutputs:
    """Outputs for one frame, and the times of preprocessing and of `Engine.run`, in milliseconds."""

    outputs: Outputs
    preprocess_ms: float
    inference_ms: float


def classify_frame(engine: Engine, frame: Frame) -> TimedOutputs:
    """Preprocess and classify a frame."""
    start_s = time.perf_counter()
    image = preprocess(frame.image_rgb, engine.input_spec)
    ready_s = time.perf_counter()
    outputs = engine.run(image)
    return TimedOutputs(outputs, (ready_s - start_s) * 1e3, (time.perf_counter() - ready_s) * 1e3)


class Pipeline:
    """Iterate once over the results, one per frame, until the source ends, a viewer quits or `stopped` is set.

    If frames are separate images, or none arrive, a command shows the last frame again.

    Attributes:
        settings: what is shown.
        is_live: the source does not wait for its reader.
    """

    def __init__(
        self,
        artifacts: Precisions,
        source: Source,
        controls: Controls,
        *,
        settings: Settings,
        perform: Callable[[Command], str] | None = None,
        recording: Callable[[], str | None] = lambda: None,
        stopped: threading.Event | None = None,
        classify: Callable[[Engine, Frame], TimedOutputs] = classify_frame,
    ) -> None:
        """Open the artifacts that are shown at first.

        Args:
            artifacts: the artifacts of the bundle.
            source: the frames.
            controls: the viewers' commands.
            settings: what to show at first.
            perform: carries out "record" and "snapshot", and returns a note for the viewer.
            recording: returns the name of the video being written, if any.
            stopped: ends the iteration after the current result; set when a viewer quits.
            classify: runs an engine on a frame.

        Raises:
            ArtifactError: an artifact that `settings` needs cannot be used.
        """
        self.settings = settings
        self.is_live = source.live
        self._artifacts = artifacts
        self._source = source
        self._controls = controls
        self._perform = perform
        self._recording = recording
        self._stopped = stopped or threading.Event()
        self._classify = classify
        self._labels = artifacts.manifest.labels
        self._maps = map_titles(artifacts.manifest.overlay.focal_levels)
        self._counts = FrameCounts(self._labels)
        self._note, self._note_until_s = "", 0.0
        self._last: Frame | None = None
        for precision in self._shown(settings):
            artifacts.switch_to(precision)

    def __iter__(self) -> Iterator[Result]:
        """Yield the results; errors of the source pass through."""
        frames = iter(self._source.frames)
        while not self._stopped.is_set():
            commanded = self._follow_commands()
            if self._stopped.is_set():
                return
            start_s = time.perf_counter()
            repeat = self._last if commanded and self._source.fps is None else None
            frame = repeat or next(frames, None)
            if frame is None:
                return
            decode_ms = (time.perf_counter() - start_s) * 1e3
            if frame.stalled and self._last is None:
                continue
            yield self._result(frame, decode_ms, repeated=bool(repeat or frame.stalled))
            self._last = frame

    def show_note(self, note: str) -> None:
        """Show a note to the viewer for a few seconds."""
        self._note, self._note_until_s = note, time.monotonic() + NOTE_S

    def _follow_commands(self) -> bool:
        """Carry out the waiting commands; return whether there were any."""
        commands = self._controls.take()
        for command in commands:
            if command.action == "quit":
                self._stopped.set()
            elif command.action in ("record", "snapshot"):
                if self._perform:
                    self.show_note(self._perform(command))
            else:
                self._change(command)
        return bool(commands)

    def _change(self, command: Command) -> None:
        """Change the settings, or show why that is not possible: a bad command never ends the demo."""
        try:
            settings = changed(self.settings, command, len(self._maps), self._artifacts.precisions)
            for precision in self._shown(settings):
                # An artifact that is already shown stays, even if its file has changed since.
                if precision not in self._shown(self.settings):
                    self._artifacts.switch_to(precision)
            self.settings = settings
        except (ArtifactError, ConfigError) as error:
            self.show_note(f"{command.action}: {error}")

    def _shown(self, settings: Settings) -> tuple[str, ...]:
        return self._artifacts.precisions if settings.compare else (settings.precision,)

    def _result(self, frame: Frame, decode_ms: float, *, repeated: bool) -> Result:
        runs = {
            precision: self._classify(self._artifacts.engine(precision), frame)
            for precision in self._shown(self.settings)
        }
        latencies_ms = {precision: run.inference_ms for precision, run in runs.items()}
        if not repeated:
            outputs = {precision: run.outputs for precision, run in runs.items()}
            self._counts.add(frame.true_label, outputs, latencies_ms)
        preprocess_ms = sum(run.preprocess_ms for run in runs.values())
        return Result(
            frame=frame,
            views=tuple(View(precision, run.outputs) for precision, run in runs.items()),
            status=self._status(frame, runs[self.settings.precision]),
            labels=self._labels,
            stages=Stages(decode_ms, preprocess_ms, sum(latencies_ms.values())),
            seen_fraction=self._artifacts.manifest.input_spec.seen_fraction,
            repeated=repeated,
        )

    def _status(self, frame: Frame, run: TimedOutputs) -> Status:
        precision = self.settings.precision
        engine = self._artifacts.engine(precision)
        p50_ms, p90_ms = self._counts.latency_percentiles_ms(precision) or (run.inference_ms,) * 2
        return Status(
            frame=frame.name,
            frames=self._counts.frames,
            dropped_frames=self._source.dropped_frames(),
            engine=engine.name,
            threads=engine.threads,
            settings=self.settings,
            maps=self._maps,
            precisions=self._artifacts.precisions,
            top5=top_classes(run.outputs.logits, self._labels, TOP),
            latency_ms=run.inference_ms,
            latency_p50_ms=p50_ms,
            latency_p90_ms=p90_ms,
            frames_per_s=self._counts.frames_per_s(),
            true_label=frame.true_label,
            running_accuracy=self._counts.running_accuracy(precision),
            agreement=self._counts.agreement(),
            recording=self._recording(),
            note=frame.stalled or (self._note if time.monotonic() < self._note_until_s else ""),
        )
