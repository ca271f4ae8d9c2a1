"""The machine that is measured on: its processor, a process's memory, and its energy where it tells that."""

from __future__ import annotations

import os
import platform
from pathlib import Path

RAPL_FOLDER = Path("/sys/class/powercap")


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor.

    Args:
        cpuinfo: the kernel's description; x86 has `model name`, ARM boards have `Model` or `Hardware`.

    Returns:
        Its model, or its architecture where the kernel does not tell the model.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    for key in ("model name", "Model", "Hardware"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Return the mean number of processes that wanted to run over the last minute; `None` where it is not told."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def memory_bytes(field: str, status: Path = Path("/proc/self/status")) -> int | None:
    """Return what the kernel says of a process's memory.

    Args:
        field: `"VmHWM"`, the most it had in memory at once, or `"VmRSS"`, what it has now.
        status: the kernel's description of the process.

    Returns:
        Bytes; `None` where it is not told.
    """
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field and value.split()[1:] == ["kB"]:
            return int(value.split()[0]) * 1024
    return None


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
