"""A live camera: its newest frame, read in a thread of its own, with a watchdog.

OpenCV's `read` can hang, fail for ever, or keep returning the last frame after a camera was unplugged;
none of that may hang the program or show an old frame as a new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import SourceError

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0
JOIN_S = 1.0


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that a camera needs."""

    def isOpened(self) -> bool:  # noqa: N802
        """Whether the device was opened."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next frame: whether there is one, and the BGR frame."""

    def release(self) -> None:
        """Close the device."""


class Camera:
    """Frames of a camera, always the newest, as long as it gives any.

    Iterate over it inside a `with` block. A failed read reopens the device, after waits that double
    from 0.1 s to 2 s, until the watchdog ends it.
    """

    def __init__(self, name: str, open_capture: Callable[[], Capture], *, timeout_s: float) -> None:
        """Prepare a camera; nothing is opened yet.

        Args:
            name: what to call it in errors.
            open_capture: opens the device, again after a failure.
            timeout_s: how long to wait for a frame before giving up, in seconds.
        """
        self.name = name
        self.timeout_s = timeout_s
        self._open_capture = open_capture
        self._changed = threading.Condition()
        self._newest: NDArray[np.uint8] | None = None
        self._cannot_open = False
        self._stopped = threading.Event()
        # A hung read must not keep the process alive.
        self._thread = threading.Thread(target=self._read, name=f"camera {name}", daemon=True)

    def __enter__(self) -> Camera:
        """Start reading."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading and close the device, unless it hangs."""
        self._stopped.set()
        self._thread.join(JOIN_S)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 BGR frames, each once, skipping those that came while the caller was busy.

        Raises:
            SourceError: the camera cannot be opened, or gave no frame for `timeout_s`.
        """
        while True:
            yield self._next()

    def _next(self) -> NDArray[np.uint8]:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._cannot_open, self.timeout_s)
            frame, self._newest = self._newest, None
        if frame is not None:
            return frame
        if self._cannot_open:
            raise SourceError(f"camera {self.name} cannot be opened; close other programs that use it")
        raise SourceError(
            f"camera {self.name} gave no frame for {self.timeout_s:g} s; "
            "check that it is plugged in and that no other program uses it"
        )

    def _read(self) -> None:
        opened_once = False
        retry_s = FIRST_RETRY_S
        while not self._stopped.is_set():
            capture = self._open_capture()
            if capture.isOpened():
                opened_once = True
                if self._read_until_failure(capture):
                    retry_s = FIRST_RETRY_S
            capture.release()
            if not opened_once:
                self._publish(None)
                return
            self._stopped.wait(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _read_until_failure(self, capture: Capture) -> bool:
        """Publish frames until one fails or the picture freezes; return whether there was any."""
        last: NDArray[np.uint8] | None = None
        changed_at_s = time.monotonic()
        while not self._stopped.is_set():
            try:
                received, frame = capture.read()
            except cv2.error:
                received, frame = False, None
            if not received or frame is None:
                break
            # Sensor noise changes every live picture, so reopen one that stands still: an unplugged
            # camera then fails, and a still test picture only blinks.
            if last is None or not np.array_equal(frame, last):
                last, changed_at_s = frame, time.monotonic()
            elif time.monotonic() - changed_at_s > self.timeout_s:
                break
            self._publish(frame)
        return last is not None

    def _publish(self, frame: NDArray[np.uint8] | None) -> None:
        with self._changed:
            self._newest = frame
            self._cannot_open = frame is None
            self._changed.notify()
