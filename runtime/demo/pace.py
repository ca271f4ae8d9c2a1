"""The rate at which results follow each other."""

from __future__ import annotations

import time


class Pace:
    """Due times of results at a fixed rate; a late result delays those after it."""

    def __init__(self, fps: float | None) -> None:
        """Keep to `fps` results a second; `None` sets no limit."""
        self._period_s = 1.0 / fps if fps else None
        self._due_s = time.monotonic()

    def wait_s(self) -> float:
        """Return how long to wait until the next result is due, in seconds; call it once per result."""
        if self._period_s is None:
            return 0.0
        now_s = time.monotonic()
        self._due_s = max(self._due_s + self._period_s, now_s)
        return self._due_s - now_s
