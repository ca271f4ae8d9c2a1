"""From a source's frames to what is shown of them: what window, web page, recording and benchmark share."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runtime.bundle.precisions import Artifacts
from runtime.core.errors import ArtifactError, ConfigError
from runtime.demo.controls import Command, Controls, Settings, Status, changed
from runtime.draw.overlay import View, map_titles, view_panel
from runtime.draw.status_strip import with_hud
from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.evaluation.metrics import softmax
from runtime.images.preprocess import Image, preprocess
from runtime.video.sources import Frame, Source

LATENCIES = 256
RATE_S = 2.0
NOTE_S = 5.0
TOP = 5

# What only the caller can do; returns what to tell the viewer.
Perform = Callable[[Command], str]


@dataclass(frozen=True)
class Stages:
    """The time that parts of the work on one frame took, in milliseconds; inference is that of all artifacts shown."""

    decode_ms: float
    preprocess_ms: float
    inference_ms: float


@dataclass(frozen=True)
class Result:
    """What there is to show.

    Attributes:
        frame: the image.
        views: what the artifacts shown say about it.
        status: what is told beside it.
        labels: class names.
        stages: where the time went.
        seen_fraction: the share of the frame's short side that the network saw.
        repeated: this frame was shown before; it is not counted again.
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
        """The image to show, uint8 `[h, w, 3]` RGB with even sides; drawn when it is first looked at."""
        name = self.frame.name
        if self.frame.true_label is not None:
            name = f"true: {self.frame.true_label}   {name}"
        panel = view_panel(
            self.frame.image_rgb,
            self.views,
            self.labels,
            self.status.settings,
            note=name,
            seen_fraction=self.seen_fraction,
        )
        return with_hud(panel, self.status)

    def is_finite(self) -> bool:
        """Return whether all outputs shown are free of NaNs and infinities."""
        return all(view.outputs.is_finite() for view in self.views)


class Pipeline:
    """Results, one a frame, until the source ends, a viewer quits or `stopped` is set; iterate over it once.

    Commands are followed between frames. Where frames are separate images, or none come, the last one is shown
    again as commands ask for it.

    Attributes:
        settings: what is shown.
        is_live: the source is one that does not wait.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        source: Source,
        controls: Controls,
        *,
        settings: Settings,
        perform: Perform | None = None,
        recording: Callable[[], str | None] = lambda: None,
        stopped: threading.Event | None = None,
    ) -> None:
        """Prepare.

        Args:
            artifacts: what classifies.
            source: what gives frames.
            controls: what viewers ask for.
            settings: what to show at first.
            perform: does what is asked for beyond the settings: "record" and "snapshot".
            recording: returns the name of the file that the caller writes, if any, to be told to the viewer.
            stopped: ends the results after the current one; is set when a viewer quits.

        Raises:
            ArtifactError: `settings` asks for an artifact that cannot be used.
        """
        self.settings = settings
        self.is_live = source.live
        self._artifacts = artifacts
        self._source = source
        self._controls = controls
        self._perform = perform
        self._recording = recording
        self._stopped = stopped or threading.Event()
        self._labels = artifacts.manifest.labels
        self._maps = map_titles(artifacts.manifest.overlay.focal_levels)
        self._counts = _Counts()
        self._note, self._note_until_s = "", 0.0
        self._last: Frame | None = None
        for precision in self._shown(settings):
            artifacts.switch_to(precision)

    def __iter__(self) -> Iterator[Result]:
        """Yield the results; errors of the source come through."""
        frames = iter(self._source.frames)
        while not self._stopped.is_set():
            asked = self._obey()
            if self._stopped.is_set():
                return
            start_s = time.perf_counter()
            repeat = self._last if asked and self._source.fps is None else None
            frame = repeat or next(frames, None)
            if frame is None:
                return
            decode_ms = (time.perf_counter() - start_s) * 1e3
            if frame.stalled and self._last is None:
                continue
            yield self._result(frame, decode_ms, repeated=bool(repeat or frame.stalled))
            self._last = frame

    def tell(self, note: str) -> None:
        """Tell the viewer something for a few seconds."""
        self._note, self._note_until_s = note, time.monotonic() + NOTE_S

    def _obey(self) -> bool:
        """Follow the commands that came; return whether there were any."""
        commands = self._controls.take()
        for command in commands:
            if command.action == "quit":
                self._stopped.set()
            elif command.action in ("record", "snapshot"):
                if self._perform:
                    self.tell(self._perform(command))
            else:
                self._change(command)
        return bool(commands)

    def _change(self, command: Command) -> None:
        """Follow one command, or tell why not: a running demo does not end for it."""
        try:
            settings = changed(self.settings, command, len(self._maps), self._artifacts.precisions)
            for precision in self._shown(settings):
                # The one that is shown already goes on, even if its file is another one by now.
                if precision not in self._shown(self.settings):
                    self._artifacts.switch_to(precision)
            self.settings = settings
        except (ArtifactError, ConfigError) as error:
            self.tell(f"{command.action}: {error}")

    def _shown(self, settings: Settings) -> tuple[str, ...]:
        return self._artifacts.precisions if settings.compare else (settings.precision,)

    def _result(self, frame: Frame, decode_ms: float, *, repeated: bool) -> Result:
        preprocess_ms = inference_ms = 0.0
        views: dict[str, View] = {}
        latencies_ms: dict[str, float] = {}
        for precision in self._shown(self.settings):
            outputs, before_ms, latency_ms = timed_run(self._artifacts.engine(precision), frame)
            views[precision] = View(precision, outputs)
            latencies_ms[precision] = latency_ms
            preprocess_ms += before_ms
            inference_ms += latency_ms
        if not repeated:
            self._counts.add(frame, views, latencies_ms, self._labels)
        return Result(
            frame=frame,
            views=tuple(views.values()),
            status=self._status(frame, views[self.settings.precision].outputs, latencies_ms),
            labels=self._labels,
            stages=Stages(decode_ms, preprocess_ms, inference_ms),
            seen_fraction=self._artifacts.manifest.input_spec.seen_fraction,
            repeated=repeated,
        )

    def _status(self, frame: Frame, outputs: Outputs, latencies_ms: dict[str, float]) -> Status:
        precision = self.settings.precision
        engine = self._artifacts.engine(precision)
        p50_ms, p90_ms = self._counts.latency_percentiles_ms(precision) or (latencies_ms[precision],) * 2
        return Status(
            frame=frame.name,
            frames=self._counts.frames,
            dropped_frames=self._source.dropped_frames(),
            engine=engine.name,
            threads=engine.threads,
            settings=self.settings,
            maps=self._maps,
            precisions=self._artifacts.precisions,
            top5=top_classes(outputs, self._labels),
            latency_ms=latencies_ms[precision],
            latency_p50_ms=p50_ms,
            latency_p90_ms=p90_ms,
            frames_per_s=self._counts.frames_per_s(),
            true_label=frame.true_label,
            running_accuracy=self._counts.running_accuracy(precision),
            agreement=self._counts.agreement(),
            recording=self._recording(),
            note=frame.stalled or (self._note if time.monotonic() < self._note_until_s else ""),
        )


def timed_run(engine: Engine, frame: Frame) -> tuple[Outputs, float, float]:
    """Classify a frame; returns the outputs, and the times of preprocessing and of the engine alone, in ms."""
    start_s = time.perf_counter()
    image = preprocess(frame.image_rgb, engine.input_spec)
    ready_s = time.perf_counter()
    outputs = engine.run(image)
    return outputs, (ready_s - start_s) * 1e3, (time.perf_counter() - ready_s) * 1e3


def percentiles(values: Collection[float]) -> tuple[float, float]:
    """Return the median and the 90th percentile of one or more values, interpolated between neighbours."""
    # np.percentile does the same in ten times the time, and imports masked arrays for it when it is first called.
    last = len(values) - 1
    p50, p90 = np.interp((0.5 * last, 0.9 * last), np.arange(last + 1), np.sort(np.fromiter(values, np.float64)))
    return float(p50), float(p90)


def top_classes(outputs: Outputs, labels: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Return the names and probabilities of the 5 most likely classes; none where a logit is not finite."""
    if not np.isfinite(outputs.logits).all():
        return ()
    probabilities = softmax(outputs.logits)
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    return tuple((labels[int(index)], float(probabilities[index])) for index in best)


class _Counts:
    """What is counted over the frames of a run, in memory that does not grow with them."""

    def __init__(self) -> None:
        self.frames = 0
        self._latencies_ms: dict[str, deque[float]] = {}
        self._shown_at_s: deque[float] = deque(maxlen=LATENCIES)
        self._labelled: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self._compared = 0
        self._agreed = 0

    def add(
        self, frame: Frame, views: dict[str, View], latencies_ms: dict[str, float], labels: tuple[str, ...]
    ) -> None:
        self.frames += 1
        self._shown_at_s.append(time.monotonic())
        for precision, latency_ms in latencies_ms.items():
            self._latencies_ms.setdefault(precision, deque(maxlen=LATENCIES)).append(latency_ms)
        # What is not finite is right about nothing, and agrees with nothing.
        answers = {precision: _answer(view.outputs) for precision, view in views.items()}
        if frame.true_label in labels:
            for precision, answer in answers.items():
                self._labelled[precision] += 1
                self._right[precision] += answer is not None and labels[answer] == frame.true_label
        if len(answers) > 1:
            self._compared += 1
            self._agreed += None not in answers.values() and len(set(answers.values())) == 1

    def latency_percentiles_ms(self, precision: str) -> tuple[float, float] | None:
        latencies_ms = self._latencies_ms.get(precision)
        if not latencies_ms:
            return None
        return percentiles(latencies_ms)

    def frames_per_s(self) -> float:
        now_s = time.monotonic()
        recent = [shown_at_s for shown_at_s in self._shown_at_s if now_s - shown_at_s < RATE_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    def running_accuracy(self, precision: str) -> float | None:
        return self._right[precision] / self._labelled[precision] if self._labelled[precision] else None

    def agreement(self) -> float | None:
        return self._agreed / self._compared if self._compared else None


def _answer(outputs: Outputs) -> int | None:
    return int(outputs.logits.argmax()) if np.isfinite(outputs.logits).all() else None
