"""The energy of the processor packages, where the machine tells it."""

from __future__ import annotations

import os
from pathlib import Path

RAPL_FOLDER = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts the energy of all processor packages, by RAPL's counters."""

    def __init__(self, folder: Path = RAPL_FOLDER) -> None:
        """Find the counters that may be read; often that is root's alone."""
        self._counters = []
        for path in sorted(folder.glob("intel-rapl:*")):
            # Those with a second colon are parts of a package.
            if path.name.count(":") == 1 and os.access(path / "energy_uj", os.R_OK):
                self._counters.append((path / "energy_uj", _number(path / "max_energy_range_uj")))
        self._start: list[int] = []

    @property
    def is_readable(self) -> bool:
        """Whether there is a counter to read."""
        return bool(self._counters)

    def start(self) -> None:
        """Remember the counters."""
        self._start = [_number(path) for path, _ in self._counters]

    def stop_mj(self) -> float:
        """Return the energy since `start`, in millijoules; counters that began anew are carried over once."""
        total_uj = 0
        for (path, reach), before in zip(self._counters, self._start, strict=True):
            now = _number(path)
            total_uj += now - before if now >= before else now - before + reach
        return total_uj / 1000.0


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
