"""What a viewer may change while frames are shown, and what he is told: shared by keys, window and web page."""

from __future__ import annotations

import queue
from dataclasses import dataclass, replace
from typing import Literal

from runtime.bundle.manifest import PRECISIONS
from runtime.core.errors import ConfigError

Layout = Literal["grid", "single", "blend"]
Action = Literal["level", "layout", "precision", "compare", "record", "snapshot", "quit"]
LAYOUTS: tuple[Layout, ...] = ("grid", "single", "blend")
WAITING_COMMANDS = 64


@dataclass(frozen=True)
class Settings:
    """What is shown.

    Attributes:
        level: the map that "single" and "blend" show, counted from 1: focal levels, global gate, modulator; 0 shows
            all of them in a grid.
        layout: "grid", original and all maps; "single", one map beside the original; "blend", one map over the frame.
        precision: of the artifact that is shown, "int8" or "float32".
        compare: show both artifacts side by side, and how often they agree.
    """

    level: int = 0
    layout: Layout = "grid"
    precision: str = "int8"
    compare: bool = False


@dataclass(frozen=True)
class Command:
    """One wish of a viewer; `value` is what to set, "" for the next one in turn."""

    action: Action
    value: str = ""


@dataclass(frozen=True)
class Status:
    """What is said about the newest frame and the run so far.

    Attributes:
        frame: what the frame is called.
        frames: frames shown so far.
        dropped_frames: frames that came while another one was worked on.
        engine: the interpreter and its version.
        threads: its CPU threads.
        settings: what is shown.
        maps: titles of the maps, in the order of `Settings.level`.
        precisions: artifacts that can be shown.
        top5: class names and probabilities, the most likely first; empty where the logits are not finite.
        true_label: of the data set, if the source knows it.
        running_accuracy: share of frames with a true label that were classified right, 0 to 1.
        agreement: share of frames that both artifacts classified alike, 0 to 1, if both were run.
        latency_ms: of the newest frame's inference.
        latency_p50_ms: median over the last frames.
        latency_p90_ms: 90th percentile over the last frames.
        frames_per_s: over the last seconds.
        recording: file that is written, if any.
        note: the newest event to tell, such as a snapshot's name or a camera that is reconnected.
    """

    frame: str
    frames: int
    dropped_frames: int
    engine: str
    threads: int
    settings: Settings
    maps: tuple[str, ...]
    precisions: tuple[str, ...]
    top5: tuple[tuple[str, float], ...]
    latency_ms: float
    latency_p50_ms: float
    latency_p90_ms: float
    frames_per_s: float
    true_label: str | None = None
    running_accuracy: float | None = None
    agreement: float | None = None
    recording: str | None = None
    note: str = ""


class Controls:
    """Commands on their way from any thread to the one that shows frames."""

    def __init__(self) -> None:
        """Begin without commands."""
        self._commands: queue.Queue[Command] = queue.Queue(WAITING_COMMANDS)

    def put(self, command: Command) -> None:
        """Leave a command; where too many wait already, it is forgotten."""
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            return

    def take(self) -> list[Command]:
        """Return the commands that came since the last call, the oldest first."""
        taken = []
        while True:
            try:
                taken.append(self._commands.get_nowait())
            except queue.Empty:
                return taken


def changed(settings: Settings, command: Command, maps: int, precisions: tuple[str, ...] = PRECISIONS) -> Settings:
    """Return the settings after a command.

    Args:
        settings: those before.
        command: "level", "layout", "precision" or "compare"; any other leaves them.
        maps: how many maps there are.
        precisions: artifacts that can be shown.

    Raises:
        ConfigError: a value that there is not.
    """
    if command.action == "level":
        level = int(_chosen(command.value, tuple(str(i) for i in range(maps + 1)), str(settings.level)))
        layout: Layout = "grid" if level == 0 else "single" if settings.layout == "grid" else settings.layout
        return replace(settings, level=level, layout=layout)
    if command.action == "layout":
        name = _chosen(command.value, LAYOUTS, settings.layout)
        layout = next(each for each in LAYOUTS if each == name)
        return replace(settings, layout=layout, level=0 if layout == "grid" else settings.level or 1)
    if command.action == "precision":
        return replace(settings, precision=_chosen(command.value, precisions, settings.precision))
    if command.action == "compare":
        compare = _chosen(command.value, ("off", "on"), "on" if settings.compare else "off") == "on"
        return replace(settings, compare=compare and len(precisions) > 1)
    return settings


def _chosen(value: str, choices: tuple[str, ...], now: str) -> str:
    if not value:
        return choices[(choices.index(now) + 1) % len(choices)]
    if value not in choices:
        raise ConfigError(f"received {value!r}; expected one of {', '.join(choices)}")
    return value
