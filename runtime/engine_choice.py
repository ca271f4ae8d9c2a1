"""Choose the fastest artifact and engine on this machine without a loss of accuracy; measured once, then cached."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.files import json_text
from runtime.core.text import printable
from runtime.engines.options import engine_options
from runtime.selection.candidates import DEFAULT_MAX_DROP_PP
from runtime.selection.choose import Choice, choose


def choose_engine(
    bundle: Path, *, log: Callable[[str], None], max_drop_pp: float = DEFAULT_MAX_DROP_PP, fresh: bool = False
) -> tuple[str, str, int]:
    """Choose the fastest way to run a bundle on this machine.

    Args:
        bundle: folder with manifest.json and artifacts.
        log: receives the figures and the choice, a line at a time.
        max_drop_pp: how much less accurate than float32 an int8 artifact may be, in percentage points.
        fresh: measure again, even where the choice is cached.

    Returns:
        The engine, `"tflite"` or `"ort"`, the precision and the number of threads, as `open_engine` takes them.

    Raises:
        ConfigError: `max_drop_pp` is negative or not a number.
        ArtifactError: the bundle is damaged, or nothing in it can be run here.
    """
    choice = choose(bundle, log=log, max_drop_pp=max_drop_pp, fresh=fresh)
    for line in describe(choice):
        log(line)
    return choice.candidate.engine, choice.candidate.precision, choice.candidate.threads


def describe(choice: Choice) -> list[str]:
    """Return the choice and its figures as lines of a log."""
    lines = _left_out(choice)
    for each in choice.measured:
        latency = f"p50 {each.latency.p50_ms:.3f} ms, p90 {each.latency.p90_ms:.3f} ms"
        lines.append(f"{each.candidate}: {latency} ({each.interpreter})")
    return [*lines, f"chosen: {choice.candidate}" + (" (measured earlier on this machine)" if choice.cached else "")]


def _left_out(choice: Choice) -> list[str]:
    return [f"left out: {reason}" for reason in choice.left_out]


def table(choice: Choice) -> str:
    """Return the choice and its figures as an aligned table."""
    lines = [f"  {'precision':9} {'engine':7} {'threads':>7} {'p50 ms':>9} {'p90 ms':>9} {'min ms':>9}  interpreter"]
    for each in choice.measured:
        candidate, latency = each.candidate, each.latency
        mark = "*" if candidate == choice.candidate else " "
        lines.append(
            f"{mark} {candidate.precision:9} {candidate.engine:7} {candidate.threads:7} "
            f"{latency.p50_ms:9.3f} {latency.p90_ms:9.3f} {latency.min_ms:9.3f}  {each.interpreter}"
        )
    lines += _left_out(choice)
    earlier = "; measured earlier on this machine, --fresh measures again" if choice.cached else ""
    return "\n".join(map(printable, [*lines, f"* chosen: {choice.candidate}{earlier}"]))


def as_json(choice: Choice) -> dict[str, Any]:
    """Return the choice and its figures for JSON."""
    rows = [
        asdict(each.candidate) | {"interpreter": each.interpreter} | asdict(each.latency) for each in choice.measured
    ]
    return {
        "chosen": asdict(choice.candidate),
        "cached": choice.cached,
        "measured": rows,
        "left_out": list(choice.left_out),
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.engine_choice",
        "Measure the artifacts of a bundle that are at parity on this device, and choose the fastest.",
        parents=[engine_options("--bundle"), shared_options("--json")],
    )
    add = parser.add_argument
    add("--fresh", action="store_true", help="measure again, even where the choice is cached")
    add(
        "--max-drop",
        type=float,
        default=DEFAULT_MAX_DROP_PP,
        metavar="PP",
        help="largest drop of an int8 artifact's accuracy in the manifest, percentage points",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    choice = choose(
        args.bundle,
        log=lambda line: say(f"warning: {line}", sys.stderr),
        max_drop_pp=args.max_drop,
        fresh=args.fresh,
    )
    print(json_text(as_json(choice)) if args.json else table(choice))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
