"""Is one artifact as good as another: for every class, in every light, in what it looks at, and is it faster here?

python -m runtime.compare --bundle B --data test.npz --out report     int8 against float32 of one bundle
python -m runtime.compare A B --data test.npz --out report            any two bundles or artifacts

Both classify the same images. The verdict holds the figures to a budget, runtime/parity.toml unless told otherwise.
Writes report.json (its schema is in docs/guides/parity.md), report.html, report.md and junit.xml. Exit codes: 0 pass,
perhaps with warnings; 1 a rule fails; 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError
from runtime.core.machine import usable_cores
from runtime.engines.registry import ENGINES
from runtime.evaluation.split_file import read_split
from runtime.parity.comparison import QUICK, Effort, Extras, compare, write_reports
from runtime.parity.pair import Pair, check_classes, open_any, open_precisions
from runtime.parity.report.markdown import to_screen
from runtime.parity.rules import DEFAULT_BUDGET, read_budget, with_largest_drop
from runtime.parity.verdict import WARN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.compare",
        description="Compare a bundle's int8 artifact with its float32 one, or any two, and write a report.",
        epilog="Exit code: 0 pass, perhaps with warnings; 1 fail; 2 bad input.",
    )
    parser.add_argument(
        "artifacts",
        type=Path,
        nargs="*",
        metavar="A B",
        help="two artifacts of any engine, or bundles, which stand for their int8 artifact: is B as good as A?",
    )
    parser.add_argument("--bundle", type=Path, help="folder of a bundle: is its int8 as good as its float?")
    parser.add_argument("--data", type=Path, required=True, help="split file, e.g. test.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.json, .html, .md and junit.xml")
    parser.add_argument(
        "--budget", type=Path, default=DEFAULT_BUDGET, help="rules of the verdict (runtime/parity.toml)"
    )
    parser.add_argument(
        "--max-drop", type=float, help="largest top-1 drop, percentage points, in place of the budget's"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 on a warning too")
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds: half a minute")
    parser.add_argument("--limit", type=int, help="compare a class-balanced sample of this many images")
    parser.add_argument("--corrupted-images", type=int, help="of those, how many are corrupted (1000; 0 for none)")
    parser.add_argument("--layer-images", type=int, help="on how many layers are compared (512; 0 for none)")
    parser.add_argument("--rounds", type=int, help="timed runs of each, with each number of threads (500)")
    parser.add_argument("--calibration", type=Path, help="split file of the images that ranges were chosen by")
    parser.add_argument("--sensitivity", type=Path, help="sensitivity.json (that in the bundle or its run)")
    parser.add_argument("--engine", choices=ENGINES, help="TFLite or ONNX Runtime (the manifest's first)")
    parser.add_argument("--threads", type=int, default=1, help="interpreter threads of the verdict (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print report.json instead of a summary")
    parser.add_argument("--no-html", action="store_true", help="do not write report.html")
    return parser


def _effort(arguments: argparse.Namespace) -> Effort:
    base = QUICK if arguments.quick else Effort()
    threads = arguments.threads
    if threads < 1:
        raise ConfigError(f"received --threads {threads}; give 1 or more")
    return Effort(
        images=base.images if arguments.limit is None else arguments.limit,
        corrupted_images=_first(arguments.corrupted_images, base.corrupted_images),
        layer_images=_first(arguments.layer_images, base.layer_images),
        rounds=_first(arguments.rounds, base.rounds),
        starts=base.starts,
        threads=tuple(dict.fromkeys((threads, 1, usable_cores()))),
    )


def _first(given: int | None, default: int) -> int:
    return default if given is None else given


def _open(arguments: argparse.Namespace) -> Pair:
    if arguments.bundle is not None and not arguments.artifacts:
        return open_precisions(arguments.bundle, arguments.engine, arguments.threads)
    if arguments.bundle is None and len(arguments.artifacts) == 2:
        reference, candidate = arguments.artifacts
        return open_any(reference, candidate, arguments.engine, arguments.threads)
    received = [*(["--bundle"] if arguments.bundle else []), *map(str, arguments.artifacts)]
    raise ConfigError(f"received {' '.join(received) or 'nothing to compare'}; give either --bundle B, or A and B")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`.

    Returns:
        0 when the candidate passes, 1 when it fails.
    """
    arguments = _parser().parse_intermixed_args(argv)
    effort = _effort(arguments)
    pair = _open(arguments)
    budget = read_budget(arguments.budget, "quantization" if pair.is_quantization else "release")
    if arguments.max_drop is not None:
        budget = with_largest_drop(budget, arguments.max_drop)
    images = read_split(arguments.data)
    check_classes(pair, images)
    calibration = read_split(arguments.calibration) if arguments.calibration else None
    comparison = compare(pair, images, budget, effort, Extras(calibration, arguments.sensitivity))
    paths = write_reports(arguments.out, comparison, html=not arguments.no_html)
    if arguments.json:
        print(json.dumps(comparison.report, indent=2))
    else:
        print(to_screen(comparison.report))
        print(f"wrote {', '.join(str(path) for path in paths)}")
    verdict = comparison.report["verdict"]
    return 0 if verdict["passed"] and not (arguments.strict and verdict["outcome"] == WARN) else 1


if __name__ == "__main__":
    sys.exit(run_cli(main))
