"""The JSON messages between page and server."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from runtime.core.errors import ConfigError
from runtime.core.text import printable, printable_content
from runtime.demo.controls import Action, Command, changed
from runtime.demo.status import Status
from runtime.draw.overlay import LAYOUTS

# The browser itself saves a snapshot. No viewer may end the program.
ACTIONS: tuple[Action, ...] = ("level", "layout", "precision", "compare", "record")
NEXT = "next"
SWITCH = ("off", "on")
MAX_SHOWN_CHARACTERS = 40


def status_message(status: Status) -> str:
    """Return a status as a JSON object: "type", the titles of the layouts by name, and the fields of `Status`.

    Figures that are not finite are null.
    """
    layouts = {name: layout.title for name, layout in LAYOUTS.items()}
    fields = printable_content(_finite(asdict(status)))
    return json.dumps({"type": "status", "layouts": layouts, **fields}, allow_nan=False)


def error_message(error: Exception) -> str:
    """Return an error as a JSON object: "type" and "message"."""
    return json.dumps({"type": "error", "message": printable(str(error))})


def read_message(text: str) -> tuple[str, str]:
    """Read a viewer's message.

    Args:
        text: `{"action": "...", "value": "..."}`; the value is optional, and may be an integer.

    Returns:
        The action and the value, "" without one; neither is checked.

    Raises:
        ConfigError: the message has another form.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and content.keys() <= {"action", "value"}:
        action, value = content.get("action"), content.get("value", "")
        if isinstance(action, str) and (isinstance(value, str) or type(value) is int):
            return action, str(value)
    raise ConfigError(f'received {_shown(text)}; expected {{"action": "...", "value": "..."}}')


def checked_command(action: str, value: str, status: Status | None) -> Command:
    """Return a viewer's command if it is valid for the latest status.

    Args:
        action: one of `ACTIONS`.
        value: the new setting, "" for the next one in turn.
        status: the latest status; `None` before the first frame.

    Raises:
        ConfigError: the action or value is unknown, or there is no frame yet.
    """
    known = next((each for each in ACTIONS if each == action), None)
    if known is None:
        raise ConfigError(f"received the action {_shown(action)}; expected one of {', '.join(ACTIONS)}")
    if status is None:
        raise ConfigError("there is no frame yet; wait for the first one")
    command = Command(known, value)
    if known in ("record", "compare") and value not in ("", *SWITCH):
        raise ConfigError(f"received {_shown(value)}; expected one of {', '.join(SWITCH)}")
    if known == "compare" and len(status.precisions) < 2:
        raise ConfigError("compare needs two artifacts, and this bundle has one; give a bundle with both precisions")
    try:
        # A long value is never valid, and must not make the error long.
        changed(status.settings, Command(known, _shown(value)), len(status.maps), status.precisions)
    except ConfigError as error:
        raise ConfigError(f"{known}: {error}") from error
    return command


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content


def _shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."
