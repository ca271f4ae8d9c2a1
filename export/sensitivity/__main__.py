"""Sensitivity of a run to int8, product by product: `python -m export.sensitivity --run runs/first`.

Each product of the scheme is quantized alone, all others float. Reported are the SQNR of its output and the effect on
the network's predictions. --max-drop searches the fewest products to leave in float for a limited drop of top-1; then
artifacts with no product in float, with those, and with more of them are made and measured. All of it on validation
images, with the trained weights, calibrated, without fine-tuning.
Exit code: 0; 1 if only the float artifact keeps to the largest drop; 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from export.reporting.figures import write_figure
from export.sensitivity.analysis import analyse, load_inputs
from export.sensitivity.float_layer_search import check_max_drop
from export.sensitivity.plot import CURVE_FILE, DPI, RANKING_FILE, draw_curve, draw_ranking
from export.sensitivity.report import SENSITIVITY_FILE, Report, to_dict, to_markdown
from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.errors import ConfigError
from runtime.core.files import json_text, write_json

FOLDER = "sensitivity"
DEFAULT_IMAGES = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`.

    Returns:
        0, or 1 if only the float artifact keeps to the largest drop.
    """
    args = _parser().parse_args(argv)
    if args.images < 1:
        raise ConfigError(f"received --images {args.images}; expected 1 or more")
    if args.max_drop is not None:
        check_max_drop(args.max_drop)
    with redirect_stdout(sys.stderr):  # the converter prints
        report = analyse(load_inputs(args.run, args.data_dir, args.images), args.max_drop)
    write_reports(args.run / FOLDER, report)
    print(json_text(to_dict(report)) if args.json else to_markdown(report))
    return 1 if report.search is not None and report.search.command is None else 0


def write_reports(folder: Path, report: Report) -> None:
    """Write sensitivity.json, sensitivity.png and, after a search, curve.png; delete an older curve.png otherwise."""
    write_json(folder / SENSITIVITY_FILE, to_dict(report))
    write_figure(folder / RANKING_FILE, draw_ranking(report), DPI)
    if report.search is None:
        (folder / CURVE_FILE).unlink(missing_ok=True)
    else:
        write_figure(folder / CURVE_FILE, draw_curve(report, report.search), DPI)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m export.sensitivity",
        "Rank a run's products by the effect of quantizing each alone. Exit code: 0; 1 if only the float artifact "
        "keeps to the largest drop; 2 for bad input.",
        parents=[
            shared_options(
                "--run",
                "--data-dir",
                "--json",
                run="folder of a trained and calibrated run",
                json="print sensitivity.json instead of the tables",
            )
        ],
    )
    parser.add_argument(
        "--images",
        "--pictures",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help="class-balanced validation images, 1 or more",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="PP",
        help="largest drop of top-1, in percentage points; search the fewest products to leave in float for it "
        "(default: no search)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
