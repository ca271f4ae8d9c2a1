"""Engines whose runs take given times on a clock without waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.engines.outputs import Outputs
from runtime.images.input_spec import InputSpec

OUTPUTS = Outputs(np.zeros(2, np.float32), np.zeros((1, 1, 2), np.float32), np.zeros((1, 1), np.float32))


@dataclass
class Clock:
    """A clock that stands still until an engine or a pause moves it."""

    now_ns: int = 0

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        return self.now_ns


@dataclass
class ClockedEngine:
    """An engine whose runs take the given times in turn; it logs its precision and the first value of each image."""

    precision: str
    clock: Clock
    times_ms: list[float]
    log: list[tuple[str, int]] = field(default_factory=list)
    kind: str = "tflite"
    name: str = "clocked 1.0"
    threads: int = 1
    input_spec: InputSpec = field(default_factory=lambda: InputSpec(4))
    runs: int = 0

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        """Move the clock by the next of the times."""
        self.clock.now_ns += round(1e6 * self.times_ms[self.runs % len(self.times_ms)])
        self.runs += 1
        self.log.append((self.precision, int(image.flat[0])))
        return OUTPUTS
