"""Decide when panels are kept: recordings that a viewer starts and stops, and snapshots."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from runtime.core.errors import FocalEdgeError
from runtime.demo.controls import Command
from runtime.images.preprocess import Image
from runtime.video.writer import IMAGE_SUFFIX, Write, free_name, open_output, save_image


class Recorder:
    """Recordings and snapshots, each under a new name; no failure here ends the demo.

    Attributes:
        path: the video being written, if any.
    """

    def __init__(self, folder: Path) -> None:
        """Write into `folder`."""
        self.path: Path | None = None
        self._folder = folder
        self._shown: tuple[Image, int] | None = None
        self._write: Write | None = None
        self._stack = ExitStack()

    def perform(self, command: Command) -> str:
        """Carry out "record" or "snapshot"; returns a note for the viewer."""
        if command.action == "snapshot":
            return self._snapshot()
        start = {"": self.path is None, "on": True, "off": False}.get(command.value)
        if start is None:
            return f"record: received {command.value!r}; expected on or off"
        return self.start() if start else self.stop()

    def take(self, panel: Image, frame: int, fps: float, *, repeated: bool = False) -> str:
        """Keep a panel for a snapshot, and add it to the video being written.

        Args:
            panel: uint8 `[h, w, 3]` RGB, h and w even.
            frame: number of the frame, for the name of a snapshot.
            fps: rate of the video; that of its first panel holds.
            repeated: the video has this panel already.

        Returns:
            A warning if the video had to be ended, else "".
        """
        self._shown = (panel, frame)
        if self.path is None or repeated:
            return ""
        try:
            # Opened with the first panel, so that a recording without a frame leaves no file.
            self._write = self._write or self._stack.enter_context(open_output(self.path))
            self._write(panel, fps)
        except FocalEdgeError as error:
            return self._end(error)
        return ""

    def recording(self) -> str | None:
        """Return the name of the video being written, if any."""
        return self.path.name if self.path else None

    def start(self) -> str:
        """Start a new video, unless one is being written; returns a note for the viewer."""
        if self.path is None:
            self.path = free_name(self._folder / f"recording-{datetime.now():%Y%m%d-%H%M%S}.mp4")
        return f"recording to {self.path}"

    def stop(self) -> str:
        """Finish the video, if there is one; returns a note for the viewer."""
        path = self.path
        if path is None:
            return "nothing is being recorded"
        return self._end(None) or (f"recorded {path}" if path.exists() else "nothing was recorded")

    def _end(self, error: FocalEdgeError | None) -> str:
        """Close the file, after an error or not; returns a warning, "" after none."""
        self.path, self._write = None, None
        try:
            self._stack.__exit__(type(error) if error else None, error, None)
        except FocalEdgeError as last:
            error = last
        return f"recording stopped: {error}" if error else ""

    def _snapshot(self) -> str:
        if self._shown is None:
            return "there is nothing to save yet"
        panel, frame = self._shown
        path = free_name(self._folder / f"snapshot-{frame:06d}{IMAGE_SUFFIX}")
        try:
            save_image(path, panel)
        except FocalEdgeError as error:
            return f"snapshot failed: {error}"
        return f"saved {path.name}"
