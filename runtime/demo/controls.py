"""What a viewer can change while the demo runs; shared by window and web page."""

from __future__ import annotations

import queue
from dataclasses import dataclass, replace
from typing import Literal

from runtime.bundle.manifest import PRECISIONS
from runtime.core.errors import ConfigError
from runtime.draw.overlay import LAYOUTS

Action = Literal["level", "layout", "precision", "compare", "record", "snapshot", "quit"]
MAX_WAITING = 64


@dataclass(frozen=True)
class Settings:
    """What is shown.

    Attributes:
        level: the map of a layout that shows one, counted from 1: focal levels, global gate, modulator; 0 in a layout
            that shows all maps.
        layout: a key of `runtime.draw.overlay.LAYOUTS`.
        precision: of the artifact that is shown, "int8" or "float32".
        compare: show both artifacts, and how often they agree.
    """

    level: int = 0
    layout: str = "grid"
    precision: str = "int8"
    compare: bool = False


@dataclass(frozen=True)
class Command:
    """One request of a viewer; `value` is the new setting, "" for the next one in turn."""

    action: Action
    value: str = ""


class Controls:
    """A queue of commands from any thread to the one that shows frames."""

    def __init__(self) -> None:
        """Start empty."""
        self._commands: queue.Queue[Command] = queue.Queue(MAX_WAITING)

    def put(self, command: Command) -> None:
        """Add a command; it is discarded if 64 are waiting."""
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            return

    def take(self) -> list[Command]:
        """Return the commands since the last call, the oldest first."""
        taken = []
        while True:
            try:
                taken.append(self._commands.get_nowait())
            except queue.Empty:
                return taken


def level_for(layout: str, level: int) -> int:
    """Return the level closest to `level` that a layout can show: 0 for all maps, else 1 or more."""
    return 0 if LAYOUTS[layout].shows_all_maps else level or 1


def layout_for(level: int, layout: str = "grid") -> str:
    """Return `layout`, or the first one that can show a level if `layout` cannot."""
    fitting = [name for name, each in LAYOUTS.items() if each.shows_all_maps == (level == 0)]
    return layout if layout in fitting else fitting[0]


def changed(settings: Settings, command: Command, maps: int, precisions: tuple[str, ...] = PRECISIONS) -> Settings:
    """Return the settings after a command.

    Args:
        settings: the current settings.
        command: "level", "layout", "precision" or "compare"; other actions change nothing.
        maps: how many maps the network has.
        precisions: artifacts that can be shown.

    Raises:
        ConfigError: the value of the command is unknown.
    """
    if command.action == "level":
        level = int(_chosen(command.value, tuple(str(i) for i in range(maps + 1)), str(settings.level)))
        return replace(settings, level=level, layout=layout_for(level, settings.layout))
    if command.action == "layout":
        layout = _chosen(command.value, tuple(LAYOUTS), settings.layout)
        return replace(settings, layout=layout, level=level_for(layout, settings.level))
    if command.action == "precision":
        return replace(settings, precision=_chosen(command.value, precisions, settings.precision))
    if command.action == "compare":
        compare = _chosen(command.value, ("off", "on"), "on" if settings.compare else "off") == "on"
        return replace(settings, compare=compare and len(precisions) > 1)
    return settings


def _chosen(value: str, choices: tuple[str, ...], current: str) -> str:
    if not value:
        return choices[(choices.index(current) + 1) % len(choices)]
    if value not in choices:
        raise ConfigError(f"received {value!r}; expected one of {', '.join(choices)}")
    return value
