"""A window that shows panels at their rate and returns the viewer's commands."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from runtime.core.errors import ConfigError, SourceError
from runtime.demo.controls import Action, Command
from runtime.demo.pace import Pace
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
    """Return the command of a key: a digit chooses a map, a letter is looked up in `KEYS`; `None` for other keys."""
    if len(key) == 1 and key in "0123456789":
        return Command("level", key)
    return Command(KEYS[key]) if key in KEYS else None


class Window:
    """The open window."""

    def __init__(self, fps: float | None, stopped: threading.Event) -> None:
        """Show `fps` panels a second, or wait for a key after each (`None`) until `stopped` is set."""
        self._pace = Pace(fps) if fps else None
        self._stopped = stopped
        self._shape: tuple[int, ...] = ()

    def show(self, panel: Image) -> Command | None:
        """Show a uint8 `[h, w, 3]` RGB panel until the next one is due; return the command of the key pressed."""
        if panel.shape != self._shape:
            self._shape = panel.shape
            cv2.resizeWindow(TITLE, panel.shape[1], panel.shape[0])
        cv2.imshow(TITLE, cv2.cvtColor(panel, cv2.COLOR_RGB2BGR))
        if self._pace:
            return command_for(_key(max(1, round(self._pace.wait_s() * 1e3))))
        key = ""
        while not key and not self._stopped.is_set():
            key = _key(POLL_MS)
        return command_for(key)


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
    """Check that a display is available: without one, OpenCV aborts the process.

    Raises:
        ConfigError: this is a Linux session without a display.
    """
    if sys.platform == "linux" and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        raise ConfigError("no display for a window; give --headless, and --output to keep the panels")


def _key(wait_ms: int) -> str:
    """Return the key pressed within `wait_ms`: "q" for Esc and a closed window, "" for none."""
    code = cv2.waitKey(wait_ms)
    if code == ESCAPE or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
        return "q"
    return chr(code & 0xFF) if code >= 0 else ""
