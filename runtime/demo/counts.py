"""Counts over the frames of a run, in memory that does not grow with them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Mapping

import numpy as np

from runtime.engines.outputs import Outputs

LATENCIES = 256
RATE_S = 2.0


class FrameCounts:
    """Latencies, frame rate, accuracy and agreement of the frames shown so far."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        """Start at zero; `labels` are the class names, in the order of the logits."""
        self.frames = 0
        self._labels = labels
        self._latencies_ms: dict[str, deque[float]] = {}
        self._shown_at_s: deque[float] = deque(maxlen=LATENCIES)
        self._labelled: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self._compared = 0
        self._agreed = 0

    def add(self, true_label: str | None, outputs: Mapping[str, Outputs], latencies_ms: Mapping[str, float]) -> None:
        """Count one frame.

        Args:
            true_label: its label, if the source knows it.
            outputs: by precision.
            latencies_ms: of the inference, by precision.
        """
        self.frames += 1
        self._shown_at_s.append(time.monotonic())
        for precision, latency_ms in latencies_ms.items():
            self._latencies_ms.setdefault(precision, deque(maxlen=LATENCIES)).append(latency_ms)
        # A non-finite prediction is never right and agrees with nothing.
        predictions = {precision: _prediction(each) for precision, each in outputs.items()}
        if true_label in self._labels:
            for precision, prediction in predictions.items():
                self._labelled[precision] += 1
                self._right[precision] += prediction is not None and self._labels[prediction] == true_label
        if len(predictions) > 1:
            self._compared += 1
            self._agreed += None not in predictions.values() and len(set(predictions.values())) == 1

    def latency_percentiles_ms(self, precision: str) -> tuple[float, float] | None:
        """Return median and 90th percentile over the last 256 frames, `None` before the first."""
        latencies_ms = self._latencies_ms.get(precision)
        return percentiles(latencies_ms) if latencies_ms else None

    def frames_per_s(self) -> float:
        """Return the frame rate over the last 2 seconds."""
        now_s = time.monotonic()
        recent = [shown_at_s for shown_at_s in self._shown_at_s if now_s - shown_at_s < RATE_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    def running_accuracy(self, precision: str) -> float | None:
        """Return the share of labelled frames that were classified right, 0 to 1."""
        return self._right[precision] / self._labelled[precision] if self._labelled[precision] else None

    def agreement(self) -> float | None:
        """Return the share of compared frames that both precisions classified alike, 0 to 1."""
        return self._agreed / self._compared if self._compared else None


def percentiles(values: Collection[float]) -> tuple[float, float]:
    """Return median and 90th percentile of one or more values, interpolated between neighbours."""
    # np.percentile takes ten times as long, and imports masked arrays on its first call.
    last = len(values) - 1
    p50, p90 = np.interp((0.5 * last, 0.9 * last), np.arange(last + 1), np.sort(np.fromiter(values, np.float64)))
    return float(p50), float(p90)


def _prediction(outputs: Outputs) -> int | None:
    return int(outputs.logits.argmax()) if np.isfinite(outputs.logits).all() else None
