"""A window that shows panels at their own rate and returns the keys pressed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from runtime.core.errors import ConfigError, SourceError
from runtime.demo.controls import Action, Command
from runtime.images.preprocess import Image

TITLE = "FocalEdge"
ESCAPE = 27
POLL_MS = 50
KEYS: dict[str, Action] = {
    "l": "layout",
    "p": "precision",
    "c": "compare",
    "r": "record",
    "s": "snapshot",
    "q": "quit",
}


def command_for(key: str) -> Command | None:
    """Return what a key asks for: a digit for a map, a letter of `KEYS`; `None` for any other."""
    if len(key) == 1 and key in "0123456789":
        return Command("level", key)
    return Command(KEYS[key]) if key in KEYS else None


class Window:
    """The open window, at `fps` panels a second, or one panel a key (`None`)."""

    def __init__(self, fps: float | None, stopped: threading.Event) -> None:
        """Show at `fps`; waiting for a key also ends when `stopped` is set."""
        self._period_s = 1.0 / fps if fps else None
        self._stopped = stopped
        self._due_s = time.monotonic()
        self._shape: tuple[int, ...] = ()

    def show(self, panel: Image) -> str:
        """Show a uint8 `[h, w, 3]` RGB panel for as long as it is due.

        Returns:
            The key pressed: "q" also for Esc and a closed window, "" for none.
        """
        if panel.shape != self._shape:
            self._shape = panel.shape
            cv2.resizeWindow(TITLE, panel.shape[1], panel.shape[0])
        cv2.imshow(TITLE, cv2.cvtColor(panel, cv2.COLOR_RGB2BGR))
        if self._period_s is None:
            return self._wait()
        self._due_s = max(self._due_s + self._period_s, time.monotonic())
        return _key(max(1, round((self._due_s - time.monotonic()) * 1e3)))

    def _wait(self) -> str:
        key = ""
        while not key and not self._stopped.is_set():
            key = _key(POLL_MS)
        return key


@contextmanager
def open_window(fps: float | None, stopped: threading.Event) -> Iterator[Window]:
    """Open the window for the length of a `with` block; see `Window`.

    Raises:
        SourceError: this OpenCV has no windows.
    """
    try:
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    except cv2.error as error:
        raise SourceError(
            "this OpenCV cannot open a window; install opencv-python in place of opencv-python-headless, "
            "or give --headless"
        ) from error
    try:
        yield Window(fps, stopped)
    finally:
        cv2.destroyAllWindows()


def require_display() -> None:
    """Check that a window can be opened at all: without a display, OpenCV aborts the process.

    Raises:
        ConfigError: this is a Linux session without a display.
    """
    if sys.platform == "linux" and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        raise ConfigError("there is no display for a window; give --headless, and --output to keep what would be shown")


def _key(wait_ms: int) -> str:
    code = cv2.waitKey(wait_ms)
    if code == ESCAPE or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
        return "q"
    return chr(code & 0xFF) if code >= 0 else ""
