"""Compare two artifacts on the same images, and judge whether one is as good as the other.

python -m runtime.compare --bundle B --data test.npz --out report     int8 against float32 of one bundle
python -m runtime.compare A B --data test.npz --out report            any two bundles or artifacts

Writes report.json (schema in docs/guides/parity.md), report.html, report.md and junit.xml. Exit code 0: pass, perhaps
with warnings; 1: a rule of runtime/parity.toml fails; 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from runtime.core.cli import EXIT_FAILED, command_parser, run_cli, say, shared_options
from runtime.core.errors import ConfigError
from runtime.core.files import json_text
from runtime.core.machine import usable_cores
from runtime.engines.engine import open_engine
from runtime.engines.options import engine_options
from runtime.evaluation.split_file import read_split
from runtime.parity.comparison import MEASURES, QUICK, Effort, Extras, compare, write_reports
from runtime.parity.measure import Measure
from runtime.parity.pair import OpenEngine, Pair, check_classes, open_any, open_precisions
from runtime.parity.report.markdown import to_screen
from runtime.parity.rules import DEFAULT_LIMITS, read_limits, with_largest_drop
from runtime.parity.verdict import WARN


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.compare",
        "Compare a bundle's int8 artifact with its float32 one, or any two artifacts, and write a report.",
        parents=[
            engine_options("--engine", "--threads"),
            shared_options("--json", json="print report.json instead of a summary"),
        ],
    )
    parser.epilog = "Exit code: 0 pass, perhaps with warnings; 1 fail; 2 bad input."
    add = parser.add_argument
    artifacts = "two artifacts of any engine, or bundles, which stand for their int8 artifact: is B as good as A?"
    add("artifacts", type=Path, nargs="*", metavar="A B", help=artifacts)
    add("--bundle", type=Path, metavar="FOLDER", help="bundle: is its int8 artifact as good as its float32 one?")
    add("--data", type=Path, required=True, metavar="FILE", help="split file, e.g. test.npz")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for report.json, .html, .md and junit.xml")
    rules = "rules of the verdict (default: runtime/parity.toml)"
    add("--rules", "--budget", type=Path, default=DEFAULT_LIMITS, metavar="FILE", help=rules)
    drop = "largest drop of top-1, percentage points, 0 or more (default: that of the rules)"
    add("--max-drop", type=float, metavar="PP", help=drop)
    add("--strict", action="store_true", help="exit with 1 on a warning too")
    add("--quick", action="store_true", help="use fewer images and rounds: half a minute")
    limit = "compare a class-balanced sample of N images, 1 or more (default: all; 1000 with --quick)"
    add("--limit", type=int, metavar="N", help=limit)
    corrupted = "images of it to corrupt, 0 for none (default: 1000; 200 with --quick)"
    add("--corrupted-images", "--corrupted-pictures", type=int, metavar="N", help=corrupted)
    layers = "images to compare layers on, 0 for none (default: 512; 200 with --quick)"
    add("--layer-images", "--layer-pictures", type=int, metavar="N", help=layers)
    rounds = "timed runs of each artifact with each number of threads, 1 or more (default: 500; 100 with --quick)"
    add("--rounds", type=int, metavar="N", help=rounds)
    add("--calibration", type=Path, metavar="FILE", help="split file of the images that ranges were chosen by")
    sensitivity = "sensitivity.json (default: that of the bundle or its run)"
    add("--sensitivity", type=Path, metavar="FILE", help=sensitivity)
    add("--no-html", action="store_true", help="do not write report.html")
    return parser


def _effort(arguments: argparse.Namespace) -> Effort:
    if arguments.threads < 1:
        raise ConfigError(f"received --threads {arguments.threads}; give 1 or more")
    given = {
        "images": arguments.limit,
        "corrupted_images": arguments.corrupted_images,
        "layer_images": arguments.layer_images,
        "rounds": arguments.rounds,
    }
    base = replace(
        QUICK if arguments.quick else Effort(), threads=tuple(dict.fromkeys((arguments.threads, 1, usable_cores())))
    )
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _open(arguments: argparse.Namespace, open_engine: OpenEngine) -> Pair:
    if arguments.bundle is not None and not arguments.artifacts:
        return open_precisions(arguments.bundle, arguments.engine, arguments.threads, open_engine)
    if arguments.bundle is None and len(arguments.artifacts) == 2:
        reference, candidate = arguments.artifacts
        return open_any(reference, candidate, arguments.engine, arguments.threads, open_engine)
    received = [*(["--bundle"] if arguments.bundle else []), *map(str, arguments.artifacts)]
    raise ConfigError(f"received {' '.join(received) or 'nothing to compare'}; give either --bundle B, or A and B")


def main(
    argv: Sequence[str] | None = None,
    *,
    open_engine: OpenEngine = open_engine,
    measures: Sequence[Measure] = MEASURES,
) -> int:
    """Run the command line; see `--help`.

    Args:
        argv: the arguments.
        open_engine: opens an artifact.
        measures: the sections of the report.

    Returns:
        0 when the candidate passes, 1 when it fails.
    """
    arguments = _parser().parse_intermixed_args(argv)
    effort = _effort(arguments)
    pair = _open(arguments, open_engine)
    limits = read_limits(arguments.rules, pair.kind)
    if arguments.max_drop is not None:
        limits = with_largest_drop(limits, arguments.max_drop)
    split = read_split(arguments.data)
    check_classes(pair, split)
    calibration = read_split(arguments.calibration) if arguments.calibration else None
    comparison = compare(pair, split, limits, effort, Extras(calibration, arguments.sensitivity), measures)
    paths = write_reports(arguments.out, comparison, html=not arguments.no_html)
    if arguments.json:
        print(json_text(comparison.report))
    else:
        print(to_screen(comparison.report))
        say(f"wrote {', '.join(str(path) for path in paths)}")
    verdict = comparison.report["verdict"]
    return 0 if verdict["passed"] and not (arguments.strict and verdict["outcome"] == WARN) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(run_cli(main))
