"""Camera: the latest frame of a device or stream, read in its own thread, with a watchdog that reconnects.

OpenCV's `read` can hang, fail for ever, or keep returning the last frame after a camera was unplugged.
None of these may hang the program or show an old frame as a new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import cv2
import numpy as np

from runtime.core.errors import DataError, SourceError
from runtime.images.preprocess import Image, bgr_to_rgb

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0
# Some drivers return unusable frames without any delay.
UNUSABLE_WAIT_S = 0.01
JOIN_S = 1.0


class Capture(Protocol):
    """The methods of `cv2.VideoCapture` that a camera needs."""

    def isOpened(self) -> bool:  # noqa: N802
        """Return whether the device is open."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next frame; return whether there is one, and the BGR frame."""

    def release(self) -> None:
        """Close the device."""


class Camera:
    """The latest frames of a camera.

    Iterate over it inside a `with` block, or call `wait`. A failed read reopens the device, after waits that
    double from 0.1 s to 2 s. A read that hangs is abandoned with its thread, and a new thread reopens the device.
    """

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        *,
        timeout_s: float,
        reconnect_s: float = 0.0,
        may_stand_still: bool = False,
        explain: Callable[[], str] | None = None,
    ) -> None:
        """Prepare a camera without opening it.

        Args:
            name: its name in errors.
            open_capture: opens the device, again after each failure.
            timeout_s: longest time without a frame before the device is reopened, in seconds; before the first
                frame, longest time before the camera fails.
            reconnect_s: longest time without a frame before the camera fails, at least `timeout_s`, in seconds.
            may_stand_still: consecutive images may be identical, as those of a stream; a sensor always has noise.
            explain: returns why a stream cannot be opened, and what to do; asked once, before an error.
        """
        self.name = name
        self.timeout_s = timeout_s
        self._reconnect_s = max(reconnect_s, timeout_s)
        self._may_stand_still = may_stand_still
        self._explain = explain
        self._open_capture = open_capture
        self._changed = threading.Condition()
        self._latest: Image | None = None
        self._dropped_frames = 0
        self._problem = ""
        self._opened = False
        self._cannot_open = False
        self._had_frame = False
        self._stopped = threading.Event()
        self._reader = 0
        self._read_at_s = self._frame_at_s = time.monotonic()
        self._thread = threading.Thread()

    def __enter__(self) -> Camera:
        """Start reading."""
        self._read_at_s = self._frame_at_s = time.monotonic()
        self._start_reader()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading and close the device, unless it hangs."""
        self._stopped.set()
        self._thread.join(JOIN_S)

    def __iter__(self) -> Iterator[Image]:
        """Yield uint8 `[H, W, 3]` RGB frames, each once, without those that arrived while the caller was busy.

        Raises:
            SourceError: the camera cannot be opened, or gave no frame for too long.
        """
        while True:
            frame = self.wait(self.timeout_s)
            if frame is not None:
                yield frame

    @property
    def dropped_frames(self) -> int:
        """Number of frames that arrived while the caller was busy."""
        return self._dropped_frames

    def wait(self, wait_s: float) -> Image | None:
        """Return the latest frame, if it was not returned yet; `None` if there is none within `wait_s` seconds.

        Raises:
            SourceError: the camera cannot be opened, or gave no frame for too long.
        """
        until_s = time.monotonic() + wait_s
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, max(0.0, min(until_s, self._due_s()) - time.monotonic()))
                frame, self._latest = self._latest, None
            if frame is not None:
                return frame
            self._check()
            if time.monotonic() >= until_s:
                return None

    def trouble(self) -> str:
        """Return why the camera gives no frames, "" if there is no known problem."""
        silent_s = time.monotonic() - self._frame_at_s
        if not self._problem and silent_s < self.timeout_s:
            return ""
        return f"reconnecting to {self.name}, {silent_s:.0f} of {self._reconnect_s:g} s{self._reason()}"

    def _has_news(self) -> bool:
        return self._latest is not None or self._cannot_open

    def _due_s(self) -> float:
        """Return when a silent camera must be reopened or fail."""
        return min(self._read_at_s + self.timeout_s, self._frame_at_s + self._patience_s())

    def _patience_s(self) -> float:
        return self._reconnect_s if self._had_frame else self.timeout_s

    def _reason(self) -> str:
        return f" ({self._problem})" if self._problem else ""

    def _check(self) -> None:
        """Raise SourceError after too long without a frame; abandon a read that hangs and start another."""
        if self._cannot_open:
            if self._explain:
                raise SourceError(f"{self.name} cannot be opened: {self._explain()}")
            raise SourceError(f"camera {self.name} cannot be opened; close other programs that use it")
        now_s = time.monotonic()
        if now_s - self._frame_at_s >= self._patience_s():
            if self._explain:
                why = f"{self.name} gave no frame for {self._patience_s():g} s{self._reason()}"
                raise SourceError(f"{why}: {self._explain()}")
            raise SourceError(
                f"camera {self.name} gave no frame for {self._patience_s():g} s{self._reason()}; "
                "check that it is plugged in and that no other program uses it"
            )
        if now_s - self._read_at_s >= self.timeout_s:
            self._problem = self._problem or "it hangs"
            self._start_reader()

    def _start_reader(self) -> None:
        with self._changed:
            self._reader += 1
            self._read_at_s = time.monotonic()
        # A hung read must not keep the process alive.
        self._thread = threading.Thread(
            target=self._read, args=(self._reader,), name=f"camera {self.name}", daemon=True
        )
        self._thread.start()

    def _is_wanted(self, reader: int) -> bool:
        return reader == self._reader and not self._stopped.is_set()

    def _read(self, reader: int) -> None:
        retry_s = FIRST_RETRY_S
        while self._is_wanted(reader):
            capture = self._open(reader)
            if capture is not None:
                self._opened = True
                if self._read_until_failure(capture, reader):
                    retry_s = FIRST_RETRY_S
                capture.release()
            elif not self._opened:
                with self._changed:
                    self._cannot_open = True
                    self._changed.notify()
                return
            if self._is_wanted(reader):
                # A device that reports its failure does not hang: this reader continues.
                self._read_at_s = time.monotonic() + retry_s
                self._stopped.wait(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _open(self, reader: int) -> Capture | None:
        try:
            capture = self._open_capture()
            if capture.isOpened():
                return capture
            capture.release()
        except cv2.error:
            pass
        self._report(reader, "it cannot be opened")
        return None

    def _read_until_failure(self, capture: Capture, reader: int) -> bool:
        """Publish frames until a read fails or the image freezes; return whether there was any."""
        last: Any = None
        changed_at_s = time.monotonic()
        while self._is_wanted(reader):
            try:
                received, frame = capture.read()
                if not received or frame is None:
                    self._report(reader, "it gave none")
                    break
                image = bgr_to_rgb(frame)
            except cv2.error:
                self._report(reader, "it failed")
                break
            except DataError as error:
                self._report(reader, str(error))
                self._stopped.wait(UNUSABLE_WAIT_S)
                continue
            # Sensor noise changes every live image. A frozen image means an unplugged camera, which then fails
            # to reopen, or a test image, which only blinks.
            if self._may_stand_still or last is None or not np.array_equal(frame, last):
                last, changed_at_s = frame, time.monotonic()
            elif time.monotonic() - changed_at_s > self.timeout_s:
                self._report(reader, "its image stood still")
                break
            self._publish(image, reader)
        return last is not None

    def _report(self, reader: int, problem: str) -> None:
        if self._is_wanted(reader):
            self._problem = problem

    def _publish(self, image: Image, reader: int) -> None:
        with self._changed:
            if not self._is_wanted(reader):
                return
            self._dropped_frames += self._latest is not None
            self._latest = image
            self._had_frame = True
            self._problem = ""
            self._read_at_s = self._frame_at_s = time.monotonic()
            self._changed.notify()
