"""Time and memory of opening one artifact in a fresh process, which has cold caches and no other model's memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from runtime.core.cli import command_parser, run_cli
from runtime.core.errors import FocalEdgeError
from runtime.core.machine import memory_bytes
from runtime.engines.engine import open_engine
from runtime.engines.options import REQUIRED, engine_options
from runtime.evaluation.fresh_process import run_fresh


def probe(bundle: Path, precision: str, engine: str, threads: int) -> dict[str, Any]:
    """Start an artifact in a fresh process.

    Args:
        bundle: its folder.
        precision: `"float32"` or `"int8"`.
        engine: `"tflite"` or `"ort"`.
        threads: CPU threads.

    Returns:
        `cold_start_ms`, which is `open_ms` and `first_run_ms`; `peak_memory_bytes` of the process, and of that
        `model_memory_bytes`, which opening and running added. Memory is `None` if the kernel does not report it.

    Raises:
        FocalEdgeError: the process fails.
    """
    arguments = ["--bundle", str(bundle.resolve()), "--precision", precision, "--engine", engine]
    try:
        process = run_fresh("runtime.parity.measures.probe", [*arguments, "--threads", str(threads)])
        figures = json.loads(process.output.splitlines()[-1])
    except (FocalEdgeError, ValueError) as error:
        raise FocalEdgeError(f"a fresh process could not open the {precision} artifact ({error})") from error
    before = figures.pop("memory_before_bytes")
    memory = {
        "peak_memory_bytes": process.peak_bytes,
        "model_memory_bytes": None if before is None else process.peak_bytes - before,
    }
    return {"cold_start_ms": figures["open_ms"] + figures["first_run_ms"], **figures, **memory}


def main(argv: Sequence[str] | None = None) -> int:
    """Open an artifact, run it once, and print its time and memory as JSON."""
    options = engine_options("--bundle", "--precision", "--engine", "--threads", bundle=REQUIRED)
    parser = command_parser("python -m runtime.parity.measures.probe", str(main.__doc__), parents=[options])
    args = parser.parse_args(argv)
    before, start_s = memory_bytes("VmRSS"), perf_counter()
    engine = open_engine(args.bundle, precision=args.precision, engine=args.engine, threads=args.threads)
    opened_s = perf_counter()
    side = engine.input_spec.size
    engine.run(np.zeros((1, side, side, 3), np.uint8))
    figures = {
        "open_ms": 1e3 * (opened_s - start_s),
        "first_run_ms": 1e3 * (perf_counter() - opened_s),
        "memory_before_bytes": before,
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
