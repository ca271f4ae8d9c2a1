"""Train a FocalNet: `python -m train --preset edge-nano --dataset shapes --run runs/first`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.core.cli import command_parser, run_cli, shared_options
from train.data.registry import add_conflicts_argument, add_dataset_argument, add_stream_argument
from train.distributed.placement import is_asked_for
from train.model.presets import DEFAULT_PRESET, PRESETS
from train.model.recipe import add_recipe_options
from train.supervise import supervise
from train.train_run import Request, train


def main(argv: Sequence[str] | None = None) -> int:
    """Train or resume a run; one process of several works in a supervised child process."""
    args = _parser().parse_args(argv)
    request = Request(
        folder=args.run,
        dataset=args.dataset,
        preset=args.preset,
        init=args.init,
        data_dir=args.data_dir,
        stream=args.stream,
        resume=args.resume,
        allow_conflicts=args.allow_conflicts,
        json=args.json,
        recipe=args,
    )
    return supervise(request) if is_asked_for() else train(request)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m train",
        "Train a FocalNet.",
        parents=[shared_options("--run", "--data-dir", "--json", run="folder of the run, made if missing")],
    )
    parser.add_argument(
        "--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: that of --init, else {DEFAULT_PRESET})"
    )
    parser.add_argument(
        "--init", type=Path, metavar="FOLDER", help="start from the weights of this run or bundle, with a new head"
    )
    add_dataset_argument(parser, default="shapes")
    add_stream_argument(parser)
    add_conflicts_argument(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the run's last whole epoch, if any")
    add_recipe_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
