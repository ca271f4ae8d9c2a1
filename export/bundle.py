"""Make bundles: the artifacts of a run or bundle, with their manifest.

python -m export.bundle --source runs/first --out models/mine    a bundle to ship
python -m export.bundle --source models/mine                     rebuild its artifacts from its weights
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.artifacts import measure_accuracy, print_closing_lines, write_artifacts
from export.run_files import copy_sources, read_run_files
from runtime.core.cli import command_parser, run_cli
from runtime.core.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Make a bundle of a run, or rebuild bundles."""
    args = _parser().parse_args(argv)
    if args.out and len(args.source) > 1:
        raise ConfigError(f"received {len(args.source)} sources for the one bundle {args.out}; give one --source")
    for source in args.source:
        target = args.out or source
        if target.resolve() != source.resolve():
            copy_sources(source, target)
        files = read_run_files(source)
        manifest = write_artifacts(files, target)
        if files.test_split is not None:
            manifest = measure_accuracy(files, target, files.test_split)
        print_closing_lines(target, manifest, sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m export.bundle", "Make bundles from the weights of runs or bundles.")
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="runs or bundles: folders with config.json, float.safetensors and calibration.json",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the bundle (default: the source itself)")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
