"""Time and memory of a Python module in a fresh process, which has cold caches and no other module's memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from time import perf_counter

from runtime.core.errors import FocalEdgeError

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
MARK = "fresh_process"
# The process reports its own peak memory: until a child has become another program, the kernel counts the parent's
# memory as the child's.
PROGRAM = f"""
import runpy, sys, time
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    cpu_s = time.process_time()
    from runtime.core.machine import peak_memory_bytes
    print("{MARK}", peak_memory_bytes(), cpu_s, file=sys.stderr)
"""


@dataclass(frozen=True)
class FreshProcess:
    """A finished process.

    Attributes:
        output: its standard output.
        first_line_ms: from its start to its first line of output.
        cpu_ms: CPU time of all its threads.
        peak_bytes: its peak resident memory.
    """

    output: str
    first_line_ms: float
    cpu_ms: float
    peak_bytes: int


def run_fresh(module: str, arguments: Sequence[str], limit_s: float = LIMIT_S) -> FreshProcess:
    """Run a module as a command in a fresh process.

    Args:
        module: e.g. `"runtime.classify"`; it prints one line or more.
        arguments: its command line.
        limit_s: after so many seconds the process is ended.

    Raises:
        FocalEdgeError: the process failed; the message has its own error.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # stderr goes to a file: as a second pipe it could fill up while the first is read.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        start_s = perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, module, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=os.environ | {"PYTHONPATH": path},
        ) as child:
            assert child.stdout is not None
            limit = Timer(limit_s, child.kill)
            limit.start()
            first = child.stdout.readline()
            first_line_ms = (perf_counter() - start_s) * 1e3
            output = first + child.stdout.read()
            code = child.wait()
            limit.cancel()
        errors.seek(0)
        lines = errors.read().splitlines()
    report = next((line.split() for line in lines if line.startswith(MARK)), None)
    if code or not first or report is None:
        own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        reason = (own or lines or ["no message"])[-1]
        raise FocalEdgeError(f"a fresh process of {module} failed (exit code {code}): {reason}")
    return FreshProcess(output, first_line_ms, float(report[2]) * 1e3, int(report[1]))
