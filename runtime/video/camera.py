"""A live camera or stream: its newest frame, read in a thread of its own, with a watchdog that reconnects.

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

from runtime.core.errors import DataError, SourceError
from runtime.images.preprocess import Image, bgr_to_rgb

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0
# Between frames that cannot be used, which some drivers give as fast as they are asked.
UNUSABLE_WAIT_S = 0.01
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

    Iterate over it inside a `with` block, or ask with `wait`. A failed read reopens the device, after waits that
    double from 0.1 s to 2 s; a read that hangs is left alone with its thread, and a new one opens the device.
    """

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        *,
        timeout_s: float,
        reconnect_s: float = 0.0,
        may_stand_still: bool = False,
    ) -> None:
        """Prepare a camera; nothing is opened yet.

        Args:
            name: what to call it in errors.
            open_capture: opens the device, again after a failure.
            timeout_s: how long a read may give no frame before the device is opened anew, in seconds. Before the
                first frame, it is given up after that.
            reconnect_s: how long without a frame it is given up, once there was one; `timeout_s` if that is longer.
            may_stand_still: the image may stay the same to the last bit, as that of a stream, not of a sensor.
        """
        self.name = name
        self.timeout_s = timeout_s
        self._reconnect_s = max(reconnect_s, timeout_s)
        self._may_stand_still = may_stand_still
        self._open_capture = open_capture
        self._changed = threading.Condition()
        self._newest: Image | None = None
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
        """Yield uint8 `[H, W, 3]` RGB frames, each once, skipping those that came while the caller was busy.

        Raises:
            SourceError: the camera cannot be opened, or gave no frame for too long.
        """
        while True:
            frame = self.wait(self.timeout_s)
            if frame is not None:
                yield frame

    @property
    def dropped_frames(self) -> int:
        """How many frames came while the caller was busy with another one."""
        return self._dropped_frames

    def wait(self, wait_s: float) -> Image | None:
        """Return the newest frame that was not returned yet; `None` if there is none within `wait_s` seconds.

        Raises:
            SourceError: the camera cannot be opened, or gave no frame for too long.
        """
        until_s = time.monotonic() + wait_s
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, max(0.0, min(until_s, self._due_s()) - time.monotonic()))
                frame, self._newest = self._newest, None
            if frame is not None:
                return frame
            self._check()
            if time.monotonic() >= until_s:
                return None

    def trouble(self) -> str:
        """Return what keeps it from giving frames, "" if nothing is known to."""
        silent_s = time.monotonic() - self._frame_at_s
        if not self._problem and silent_s < self.timeout_s:
            return ""
        reason = f" ({self._problem})" if self._problem else ""
        return f"reconnecting to {self.name}, {silent_s:.0f} of {self._reconnect_s:g} s{reason}"

    def _has_news(self) -> bool:
        return self._newest is not None or self._cannot_open

    def _due_s(self) -> float:
        """Return when something has to be done about a camera that stays silent."""
        return min(self._read_at_s + self.timeout_s, self._frame_at_s + self._patience_s())

    def _patience_s(self) -> float:
        return self._reconnect_s if self._had_frame else self.timeout_s

    def _check(self) -> None:
        """Give up, or leave a read that hangs to itself and begin another.

        Raises:
            SourceError: the time is over.
        """
        if self._cannot_open:
            raise SourceError(f"camera {self.name} cannot be opened; close other programs that use it")
        now_s = time.monotonic()
        if now_s - self._frame_at_s >= self._patience_s():
            reason = f" ({self._problem})" if self._problem else ""
            raise SourceError(
                f"camera {self.name} gave no frame for {self._patience_s():g} s{reason}; "
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
                # A device that fails and says so is no hung one: this reader goes on.
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
        self._blame(reader, "it cannot be opened")
        return None

    def _read_until_failure(self, capture: Capture, reader: int) -> bool:
        """Publish frames until one fails or the image freezes; return whether there was any."""
        last: Any = None
        changed_at_s = time.monotonic()
        while self._is_wanted(reader):
            try:
                received, frame = capture.read()
                if not received or frame is None:
                    self._blame(reader, "it gave none")
                    break
                image = bgr_to_rgb(frame)
            except cv2.error:
                self._blame(reader, "it failed")
                break
            except DataError as error:
                self._blame(reader, str(error))
                self._stopped.wait(UNUSABLE_WAIT_S)
                continue
            # Sensor noise changes every live image, so reopen one that stands still: an unplugged
            # camera then fails, and a still test image only blinks.
            if self._may_stand_still or last is None or not np.array_equal(frame, last):
                last, changed_at_s = frame, time.monotonic()
            elif time.monotonic() - changed_at_s > self.timeout_s:
                self._blame(reader, "its image stood still")
                break
            self._publish(image, reader)
        return last is not None

    def _blame(self, reader: int, problem: str) -> None:
        if self._is_wanted(reader):
            self._problem = problem

    def _publish(self, image: Image, reader: int) -> None:
        with self._changed:
            if not self._is_wanted(reader):
                return
            self._dropped_frames += self._newest is not None
            self._newest = image
            self._had_frame = True
            self._problem = ""
            self._read_at_s = self._frame_at_s = time.monotonic()
            self._changed.notify()
