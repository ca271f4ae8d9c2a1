"""Measure activation ranges of a trained run: `python -m calibration --run runs/first`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from calibration.calibrate import DEFAULT_IMAGES, calibrate_run
from calibration.calibration_file import CALIBRATION_FILE, describe_observer
from calibration.observers import DEFAULT_OBSERVER, DEFAULT_PERCENTILE, OBSERVERS
from calibration.range_plot import RANGE_PLOT_FILE
from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.files import json_text
from train.data.registry import add_stream_argument


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    parser = command_parser(
        "python -m calibration",
        "Measure activation ranges of a trained run; writes calibration.json and calibration.png to its folder.",
        parents=[shared_options("--run", "--data-dir", "--seed", "--json", json="print the ranges as JSON")],
    )
    add_stream_argument(parser)
    parser.add_argument(
        "--images",
        "--pictures",
        type=int,
        metavar="N",
        help=f"images in the representative set (default: {DEFAULT_IMAGES}, or all if there are fewer)",
    )
    rules = "; ".join(f"{name}: {row.summary}" for name, row in OBSERVERS.items())
    parser.add_argument(
        "--observer", choices=OBSERVERS, default=DEFAULT_OBSERVER, help=f"rule that chooses a range. {rules}"
    )
    parser.add_argument(
        "--percentile",
        type=float,
        metavar="PERCENT",
        help=f"values that observer percentile keeps, more than 50, up to 100 (default: {DEFAULT_PERCENTILE})",
    )
    args = parser.parse_args(argv)
    calibration = calibrate_run(
        args.run,
        data_dir=args.data_dir,
        stream=args.stream,
        images=args.images,
        observer=args.observer,
        percentile=args.percentile,
        seed=args.seed,
    )
    count, ranges = len(calibration.ids), calibration.ranges
    if args.json:
        figures = {key: getattr(calibration, key) for key in ("observer", "percentile", "sha256")}
        print(json_text({**figures, "images": count, "ranges": ranges}))
    else:
        say(
            f"{len(ranges)} ranges over {count} images of {calibration.dataset} "
            f"({describe_observer(calibration)}): {args.run / CALIBRATION_FILE}, drawn in {RANGE_PLOT_FILE}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
