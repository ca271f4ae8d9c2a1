"""Measure the latency of a bundle's float and int8 artifacts side by side, in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.errors import ConfigError
from runtime.core.files import json_text
from runtime.engines.engine import Engine, open_engine
from runtime.engines.options import REQUIRED, engine_options
from runtime.evaluation.timing import latencies_of, measure_times, speedup, synthetic_images

DEFAULT_ROUNDS = 200
WHAT = ("latency", "pipeline", "cold-start")


def main(argv: Sequence[str] | None = None, open_with: Callable[..., Engine] = open_engine) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    if args.threads < 1:
        raise ConfigError(f"received --threads {args.threads}; expected 1 or more")
    if args.what != WHAT[0]:
        return _measure_elsewhere(args)
    engines = {
        precision: open_with(args.bundle, precision=precision, engine=args.engine, threads=args.threads)
        for precision in ("float32", "int8")
    }
    images = synthetic_images(engines["int8"].input_spec.size)
    latencies = latencies_of(measure_times(engines, images, args.rounds))
    name = engines["int8"].name
    ratio = speedup(latencies["float32"], latencies["int8"])
    if args.json:
        figures = {precision: asdict(latency) for precision, latency in latencies.items()}
        run = {"engine": name, "threads": args.threads, "rounds": args.rounds}
        print(json_text({**run, **figures, "speedup": ratio}))
        return 0
    print(f"{name}, {args.threads} thread(s), {args.rounds} rounds, ms per image")
    print(f"{'':8} {'p50':>9} {'p90':>9} {'min':>9}")
    for precision, latency in latencies.items():
        print(f"{precision:8} {latency.p50_ms:9.3f} {latency.p90_ms:9.3f} {latency.min_ms:9.3f}")
    print(f"int8 is {ratio:.2f} times as fast as float32 (ratio of medians)")
    return 0


def _measure_elsewhere(args: argparse.Namespace) -> int:
    """Run the command that measures a pipeline or a cold start, and return its exit code."""
    options = ["--bundle", str(args.bundle)]
    options += ["--engine", args.engine] if args.engine else []
    options += ["--json"] if args.json else []
    # Imported here: they need more than a measurement of latency does.
    if args.what == "pipeline":
        from runtime import soak

        return soak.main([*options, "--threads", str(args.threads)])
    from runtime import cold_start

    return cold_start.main(options)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.benchmark",
        "Measure the float and the int8 artifact of a bundle side by side on noise images.",
        parents=[
            engine_options("--bundle", "--engine", "--threads", bundle=REQUIRED),
            shared_options("--json", json="print the figures as JSON"),
        ],
    )
    what = "latency of one image; pipeline: of the whole demo (runtime.soak); cold-start: of a new process"
    rounds = "measured runs of each artifact, 1 or more"
    parser.add_argument("--what", choices=WHAT, default=WHAT[0], help=what)
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, metavar="N", help=rounds)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
