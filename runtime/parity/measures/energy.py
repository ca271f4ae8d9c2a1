"""Energy: that of the processor packages during one image, where the machine has counters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.engine import Engine
from runtime.parity.measure import Context, Missing

RAPL_FOLDER = Path("/sys/class/powercap")
ENERGY_S = 2.0


def measure_energy(context: Context, *, folder: Path = RAPL_FOLDER) -> dict[str, Any] | Missing:
    """Measure `energy`: millijoules an image.

    Args:
        context: see `Context`.
        folder: of the kernel's RAPL counters.
    """
    meter = EnergyMeter(folder)
    if not meter.is_readable:
        return Missing("this machine has no RAPL counter that this user may read")
    return {
        f"{role}_mj": energy_mj(compared.engine, context.batches(compared), meter)
        for role, compared in context.pair.artifacts.items()
    }


def energy_mj(
    engine: Engine, batches: Sequence[NDArray[np.uint8]], meter: EnergyMeter, lasting_s: float = ENERGY_S
) -> float:
    """Measure the energy of one image: of all processor packages, with all else that runs on them.

    Args:
        engine: runs again and again.
        batches: uint8 `[1, S, S, 3]` each, used in turn.
        meter: with a readable counter.
        lasting_s: how long it runs, in seconds.

    Returns:
        Millijoules an image.
    """
    end_s, runs = perf_counter() + lasting_s, 0
    meter.start()
    while runs == 0 or perf_counter() < end_s:
        engine.run(batches[runs % len(batches)])
        runs += 1
    return meter.stop_mj() / runs


class EnergyMeter:
    """Reads the energy of all processor packages from RAPL's counters."""

    def __init__(self, folder: Path = RAPL_FOLDER) -> None:
        """Find the counters that this user may read; often only root may."""
        self._counters = []
        for path in sorted(folder.glob("intel-rapl:*")):
            # Names with a second colon are parts of a package.
            if path.name.count(":") == 1 and os.access(path / "energy_uj", os.R_OK):
                self._counters.append((path / "energy_uj", _number(path / "max_energy_range_uj")))
        self._start: list[int] = []

    @property
    def is_readable(self) -> bool:
        """Whether there is a counter to read."""
        return bool(self._counters)

    def start(self) -> None:
        """Note the counters."""
        self._start = [_number(path) for path, _ in self._counters]

    def stop_mj(self) -> float:
        """Return the energy since `start`, in millijoules; a counter may have wrapped around once."""
        total_uj = 0
        for (path, maximum), before in zip(self._counters, self._start, strict=True):
            now = _number(path)
            total_uj += now - before if now >= before else now - before + maximum
        return total_uj / 1000.0


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
