"""This machine: CPU, memory and installed packages. Needs nothing but the standard library."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
BOARD = Path("/proc/device-tree/model")
# Features that make int8 or float products fast: the kernel's name and the usual one.
FEATURES = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "amx_int8": "AMX-INT8",
    "neon": "NEON",
    "asimd": "NEON",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
# Where the kernel names the processor or the board. Their case matters: on x86, `model` is a number.
NAMES = ("model name", "Model", "Hardware")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        model: its name, on a board after the board's.
        architecture: as `platform.machine` names it.
        cores: logical cores that this process may use.
        features: the values of `FEATURES` that it has.
    """

    model: str
    architecture: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Memory of the machine, in bytes."""

    total_bytes: int
    available_bytes: int


def read_cpu(cpuinfo: Path = CPUINFO, board: Path = BOARD) -> Cpu:
    """Describe the processor.

    Args:
        cpuinfo: the kernel's description; without it no features are known.
        board: the file with the name of a board, such as a Raspberry Pi's.
    """
    fields = _fields(cpuinfo)
    flags = {*fields.get("flags", "").split(), *fields.get("Features", "").split()}
    return Cpu(
        model=cpu_model(cpuinfo, board),
        architecture=platform.machine() or UNKNOWN,
        cores=usable_cores(),
        features=tuple(dict.fromkeys(usual for kernel, usual in FEATURES.items() if kernel in flags)),
    )


def cpu_model(cpuinfo: Path = CPUINFO, board: Path = BOARD) -> str:
    """Return the name of the processor, after the name of the board where there is one.

    Args:
        cpuinfo: the kernel's description; x86 has `model name`, Arm boards have `Model` or `Hardware`.
        board: the file with the name of a board.
    """
    fields = _fields(cpuinfo)
    # A device tree's strings end in a zero byte.
    names = [_text(board).strip("\0\n "), next((fields[key] for key in NAMES if fields.get(key)), "")]
    known = ", ".join(dict.fromkeys(filter(None, names)))
    return known or platform.processor() or platform.machine() or UNKNOWN


def usable_cores() -> int:
    """Return the number of logical cores that this process may use, 1 or more."""
    # In a container or under `taskset`, fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def read_memory(meminfo: Path = MEMINFO) -> Memory | None:
    """Return the machine's memory, or `None` where the kernel does not list it."""
    fields = _fields(meminfo)
    total, available = (_kilobytes(fields.get(name, "")) for name in ("MemTotal", "MemAvailable"))
    return None if total is None else Memory(total, available or 0)


def memory_bytes(field: str, status: Path = STATUS) -> int | None:
    """Return the memory of a process.

    Args:
        field: `"VmHWM"`, its peak, or `"VmRSS"`, its current size.
        status: the kernel's description of the process.

    Returns:
        Bytes; `None` if the kernel does not list it.
    """
    return _kilobytes(_fields(status).get(field, ""))


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process, in bytes."""
    found = memory_bytes("VmHWM")
    if found is not None:
        return found
    # Imported here: only Unix has it. It may count the memory of the parent that forked this process.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, all others kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024


def load_average() -> float | None:
    """Return the mean number of runnable processes over the last minute; `None` where the system does not list it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def installed_version(module: str, distributions: tuple[str, ...]) -> str | None:
    """Return the version of an installed module without importing it.

    Args:
        module: its name at the top, e.g. `"cv2"`.
        distributions: the distributions that may contain it.

    Returns:
        The version; `None` if not installed, `"unknown"` if no distribution contains it.
    """
    # The import takes a twentieth of the time in which the demo starts.
    from importlib.metadata import PackageNotFoundError, version

    try:
        if find_spec(module) is None:
            return None
    # The module is blocked or was imported without a spec.
    except ValueError:
        return None
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return UNKNOWN


def _fields(path: Path) -> dict[str, str]:
    """Return the first value of each "name : value" of a file; nothing if it cannot be read."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _kilobytes(value: str) -> int | None:
    """Return the bytes of the kernel's "123 kB"; `None` for anything else."""
    number = re.match(r"(\d+) kB", value)
    return int(number[1]) * 1024 if number else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
