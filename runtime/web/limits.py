"""The limits of the web view on viewers, connections and requests."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LINE_BYTES = 2048
MAX_FIELD_BYTES = 4096
MAX_HEADERS = 64
MAX_MESSAGE_BYTES = 1024
# Enough to keep images coming while one is being sent.
MAX_REQUESTED = 2
COMMANDS_PER_S = 10.0
MESSAGES_PER_S = 100.0
CLOSE_S = 1.0


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    Attributes:
        viewers: open pages.
        connections: open TCP connections.
        request_s: longest time of a connection without a complete request, in seconds.
        heartbeat_s: interval of pings, in seconds; a viewer that does not reply within half of it is dropped.
    """

    viewers: int = 32
    connections: int = 128
    request_s: float = 20.0
    heartbeat_s: float = 10.0


class RateLimit:
    """A limit of `per_s` events a second on average, and twice as many at once."""

    def __init__(self, per_s: float, now_s: float) -> None:
        """Start with the full allowance."""
        self._per_s = per_s
        self._left = 2 * per_s
        self._at_s = now_s

    def allows(self, now_s: float) -> bool:
        """Count an event; return whether it is within the limit."""
        self._left = min(2 * self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
